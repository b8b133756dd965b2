"""Plugins: modules outside this package that bring operators, variants, stage rules, optimizers, hooks, data sources.

A plugin registers nothing: each class at its top level that derives from a base class of ours, and whose name does not
begin with `_`, joins the list of its kind (`model/registry.py`). A plugin is a file, a package's folder or a module,
which a recipe names, or the entry point of an installed package in the group `espalier.plugins`.
"""

import importlib
import re
import sys
import traceback
from collections.abc import Iterable
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from model.errors import UserError
from model.registry import add

GROUP = "espalier.plugins"
OURS = ("model", "growth", "pretrain")


class PluginError(UserError):
    """A plugin cannot be loaded."""


_loaded: dict[str, ModuleType] = {}


def load_plugins(names: Iterable[str] = ()) -> None:
    """Loads the installed plugins and those named, each once. Raises UserError that names the one at fault."""
    for point in entry_points(group=GROUP):
        _load(point.module, f"{point.name} of {point.dist.name if point.dist else 'an installed package'}")
    here = Path.cwd()
    for name in names:
        _load(located(name, here), name.removeprefix(f"{here}/"))


def names_of_loaded() -> tuple[str, ...]:
    """What `load_plugins` of another process, on a machine with the same files, takes to load the same."""
    return tuple(_loaded)


def located(name: str, folder: Path) -> str:
    """A plugin's name as any process understands it: a file or folder that lies in `folder` by its whole path."""
    path = folder / Path(name).expanduser()
    return str(path.resolve()) if name and (path.is_file() or (path / "__init__.py").is_file()) else name


def sources(name: str) -> dict[str, str]:
    """The text of a loaded plugin, by file: of a folder all its modules."""
    module = _loaded.get(name)
    if module is None or not module.__file__:
        return {}
    file = Path(module.__file__)
    folder = file.parent if is_file(name) and Path(name).is_dir() else None
    files = sorted(folder.rglob("*.py")) if folder else [file]
    above = folder.parent if folder else file.parent
    return {str(each.relative_to(above)): each.read_text("utf-8") for each in files}


def is_file(name: str) -> bool:
    """Whether the name is a path, not that of a module."""
    return name.endswith(".py") or "/" in name


def _load(name: str, shown: str) -> None:
    if name in _loaded:
        return
    try:
        module = _module_at(Path(name)) if is_file(name) else importlib.import_module(name)
        kinds = _kinds(module)
        if not kinds:
            raise UserError("it defines no class over one of ours, such as Operator; see docs/plugins.md")
        for kind in kinds:
            add(kind)
    except UserError as error:
        raise PluginError(f"plugin {shown}: {error}") from error
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise PluginError(f"plugin {shown} fails: {_where(error)}{error}") from error
        raise UserError(
            f"plugin {shown} is not a module Python can find; install its package, or name a file by its path"
        ) from error
    except (Exception, SystemExit) as error:
        raise PluginError(f"plugin {shown} fails: {_where(error)}{type(error).__name__}: {error}") from error
    _loaded[name] = module


def _module_at(path: Path) -> ModuleType:
    """The module in a file, or the package in a folder. Its name is unlike that of any other module."""
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        raise UserError("it does not exist; name a file, a folder with __init__.py, or a module")
    name = "espalier_plugin_" + re.sub(r"\W", "_", path.stem)
    if getattr(sys.modules.get(name), "__file__", str(file)) != str(file):
        raise UserError(f"another plugin has the same name, {sys.modules[name].__file__}; rename one of them")
    spec = spec_from_file_location(name, file, submodule_search_locations=[str(path)] if path.is_dir() else None)
    if spec is None or spec.loader is None:
        raise UserError("it is no Python file; its name must end in .py")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _kinds(module: ModuleType) -> list[type]:
    """What the module adds, in its order."""
    public = (value for name, value in vars(module).items() if not name.startswith("_") and isinstance(value, type))
    return [each for each in dict.fromkeys(public) if not _is_ours(each) and any(map(_is_ours, each.__mro__))]


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in OURS


def _where(error: BaseException) -> str:
    """`my_operators.py, line 12: `; nothing where the error says it itself."""
    if isinstance(error, SyntaxError):
        return ""
    ours = (__file__, importlib.__file__)
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename not in ours and not frame.filename.startswith("<frozen")]
    return f"{Path(theirs[0].filename).name}, line {theirs[0].lineno}: " if theirs else ""
