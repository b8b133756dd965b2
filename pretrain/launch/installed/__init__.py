"""The package `espalier` of an installed wheel (setup.py): model, growth, pretrain and ds_configs are folders in it.

Their names are too general for the top of an environment that other packages share. They import each other by these
names all the same: the console script puts their folder on the path, and so do the processes that it starts. `import
espalier` puts it at the end, for scripts and notebooks.
"""

import importlib
import sys
from pathlib import Path

HOME = next(folder for folder in Path(__file__).resolve().parents if (folder / "pretrain" / "__main__.py").is_file())
"""In an editable install the folder of the checkout."""
sys.path.append(str(HOME))


def main() -> int:
    """The console script `espalier`."""
    sys.path.insert(0, str(HOME))
    command_line = importlib.import_module("pretrain.__main__")
    code: int = command_line.main(sys.argv[1:], program="espalier")
    return code
