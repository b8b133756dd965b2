"""The package `espalier` of an installed wheel (setup.py): model, growth, pretrain and ds_configs are folders in it.

Their names are too general for the top of an environment that other packages share. They import each other by these
names all the same: the console script puts their folder on the path, and so do the processes that it starts.
"""

import importlib
import sys
from pathlib import Path


def main() -> int:
    """The console script `espalier`. In an editable install the folder is that of the checkout."""
    home = next(
        folder for folder in Path(__file__).resolve().parents if (folder / "pretrain" / "__main__.py").is_file()
    )
    sys.path.insert(0, str(home))
    command_line = importlib.import_module("pretrain.__main__")
    code: int = command_line.main(sys.argv[1:], program="espalier")
    return code
