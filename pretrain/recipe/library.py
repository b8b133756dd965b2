"""The shipped recipes, and how one recipe is laid over another.

    shipped/scales/base.yaml         a whole recipe: BERT-base from scratch
    shipped/methods/compound.yaml    what CompoundGrow changes at every scale and, under `scales`, at some
    compound-base                    the second laid over the first

A user's recipe names the one below it with `extends`.
"""

from pathlib import Path
from typing import Any

from model.errors import UserError, nearest
from pretrain.settings.plugins import located
from pretrain.settings.yaml_text import parse

RECIPES = Path(__file__).parent / "shipped"
SCALES, METHODS = RECIPES / "scales", RECIPES / "methods"


def read_values(path: str, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a recipe, by file or name, with all that it extends. Its name defaults to the file's.

    `above`: the files that extend it. Raises UserError naming what cannot be found or read.
    """
    if Path(path).parent.resolve() == METHODS:
        raise UserError(f"{path} is a method; name it with a scale, for example {Path(path).stem}-base")
    for file in (Path(path), RECIPES / f"{path}.yaml", SCALES / f"{path}.yaml"):
        if file.is_file():
            return {"name": file.stem} | _read(file, above)
    method, _, scale = path.rpartition("-")
    if method in _stems(METHODS) and scale in _stems(SCALES):
        return {"name": path} | _at_scale(method, scale)
    if path and Path(path).is_dir():
        raise UserError(f"recipe {path!r} is a folder; name the YAML file in it")
    whole = ", ".join([*_stems(RECIPES), *_stems(SCALES)])
    raise UserError(
        f"recipe {path!r} is neither a file nor a recipe that comes with Espalier{nearest(path, shipped_names())}: "
        f"{whole}, or METHOD-SCALE such as compound-base, with the methods {', '.join(_stems(METHODS))}"
    )


def shipped_names() -> list[str]:
    """The names of all shipped recipes."""
    scales = _stems(SCALES)
    return [*_stems(RECIPES), *scales, *(f"{method}-{scale}" for method in _stems(METHODS) for scale in scales)]


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both as one recipe: mappings are merged key by key; any other value above replaces the one below.

    A mapping of stages changes the stages below by name. A list of stages replaces them; `grow` is always replaced.
    Plugins are those of both.
    """
    both = dict(below)
    for key, value in above.items():
        old = below.get(key)
        if key == "stages" and isinstance(value, dict) and isinstance(old, list):
            both[key] = _changed_stages(old, value)
        elif key == "plugins" and isinstance(value, list) and isinstance(old, list):
            both[key] = [*old, *value]
        elif isinstance(value, dict) and isinstance(old, dict) and key != "grow":
            both[key] = laid_over(old, value)
        else:
            both[key] = value
    return both


def _changed_stages(stages: list[Any], changes: dict[str, Any]) -> list[dict[str, Any]]:
    for stage in stages:
        if not isinstance(stage, dict):
            raise UserError(f"stages: {stage!r} in the recipe below is not a stage; write a mapping with a name there")
    names = [stage.get("name") for stage in stages]
    for name, change in changes.items():
        if name not in names:
            raise UserError(f"stages.{name}: the recipe below has no such stage; it has {', '.join(map(str, names))}")
        if not isinstance(change, dict | None):
            raise UserError(f"stages.{name} is {change!r}; write the keys that change, for example {{steps: 10%}}")
    return [laid_over(stage, changes.get(name) or {}) for name, stage in zip(names, stages, strict=True)]


def _at_scale(method: str, scale: str) -> dict[str, Any]:
    values = _read(METHODS / f"{method}.yaml")
    settings = values.pop("scales", {})
    values = laid_over(_read(SCALES / f"{scale}.yaml"), values)
    for scales, own in settings.items():
        if scale in scales.split(", "):
            values = laid_over(values, own)
    return values


def _read(file: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a file, laid over the recipe that it extends: a file in the same folder, or a recipe by name."""
    if file.resolve() in above:
        raise UserError(f"recipe {file} extends itself; name another recipe there")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {file} cannot be read: {error}") from None
    values = parse(text, str(file))
    if not isinstance(values, dict):
        raise UserError(f"{file} is not a recipe: it must be a mapping of keys such as name, model and stages")
    named = values.get("plugins")
    named = [named] if isinstance(named, str) else named
    if isinstance(named, list):
        values["plugins"] = [located(name, file.parent) if isinstance(name, str) else name for name in named]
    below = values.pop("extends", None)
    if below is None:
        return values
    if not isinstance(below, str) or not below:
        raise UserError(f"{file}: extends is {below!r}; name a recipe there, or remove it")
    above = (*above, file.resolve())
    neighbour = file.parent / (f"{below}.yaml" if file.parent == METHODS else below)
    if neighbour.is_file() or below.endswith(".yaml"):
        inherited = _read(neighbour, above)
    else:
        inherited = read_values(below, above)
    inherited.pop("name", None)
    return laid_over(inherited, values)


def _stems(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))
