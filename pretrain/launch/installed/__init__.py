"""The package `espalier` of an installed wheel (setup.py): model, growth, pretrain and ds_configs are folders in it.

Their names are too general for the top of an environment that other packages share. They import each other by these
names all the same: importing this package puts their folder on the path, for the console script as for a notebook, and
the processes that it starts do so, too. It comes first: a folder `model` of the user's own must not get in the way.
"""

import importlib
import sys
from pathlib import Path

HOME = next(folder for folder in Path(__file__).resolve().parents if (folder / "pretrain" / "__main__.py").is_file())
"""In an editable install the folder of the checkout."""
sys.path.insert(0, str(HOME))


def main() -> int:
    """The console script `espalier`."""
    command_line = importlib.import_module("pretrain.__main__")
    code: int = command_line.main(sys.argv[1:], program="espalier")
    return code
