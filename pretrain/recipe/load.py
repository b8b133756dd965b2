"""Loads a recipe by file or name, with `--set` overrides: the result is a validated Recipe or one clear error line."""

import json
import re
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, RootModel, ValidationError

from model.errors import UserError, nearest
from pretrain.recipe.library import read_values
from pretrain.recipe.schema import Recipe
from pretrain.settings.plugins import load_plugins, located
from pretrain.settings.yaml_text import parse, shown


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe, by file or by the name of a shipped one, and applies `--set` overrides.

    `overrides`: strings such as `stages.1.steps=200`. Raises UserError naming the file and the offending key.
    """
    values = read_values(str(path))
    for override in overrides:
        _apply(values, override)
    named = values.get("plugins") or []
    named = [named] if isinstance(named, str) else named
    if isinstance(named, list) and all(isinstance(name, str) for name in named):
        values["plugins"] = [located(name, Path.cwd()) for name in named]
        load_plugins(values["plugins"])
    with explained(Recipe, str(path)):
        return Recipe.model_validate(values)


def recipe_of(text: str) -> Recipe:
    """From the JSON of one that was loaded before. Loads its plugins in this process, too."""
    values = json.loads(text)
    load_plugins(values["plugins"])
    return Recipe.model_validate(values)


@contextmanager
def explained(schema: type[BaseModel], source: str = "", section: str = "") -> Iterator[None]:
    """Inside, a ValidationError of `schema` becomes one line: source, key, what is wrong, the nearest valid key.

    `source` names the file, `section` the key in it that holds the values.
    """
    try:
        yield
    except ValidationError as error:
        raise UserError((f"{source}: " if source else "") + _explain(schema, error, section)) from None


def _explain(schema: type[BaseModel], error: ValidationError, section: str) -> str:
    # An unknown key is the likeliest cause of the other faults: a misspelt key is also missing.
    faults = error.errors()
    fault = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
    *above, last = fault["loc"] or ("",)
    is_key = fault["type"] == "extra_forbidden"  # as the user wrote it, with hyphens for example
    path = [part for part in above if not _is_type_tag(part)] + ([last] if is_key or not _is_type_tag(last) else [])
    path = [part for part in path if part != ""]
    key = ".".join(str(part) for part in ([section] if section else []) + path)
    if fault["type"] == "extra_forbidden":
        choices = _keys_at(schema, path[:-1])
        return f"unknown key {key}{nearest(str(path[-1]), choices)}; allowed here: {', '.join(choices)}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    if fault["type"] == "value_error":
        return f"{key}: {fault['ctx']['error']}" if key else str(fault["ctx"]["error"])
    if fault["type"] == "model_type":
        return f"{key} is {shown(fault['input'])}; write a mapping of keys: {', '.join(_keys_at(schema, path))}"
    choices = re.findall(r"'([^']*)'", fault["ctx"]["expected"]) if fault["type"] == "literal_error" else []
    hint = nearest(str(fault["input"]), choices) if len(choices) > 3 else ""  # fewer are seen at a glance
    is_also_bool = choices and any(other["loc"] == (*fault["loc"][:-1], "bool") for other in faults)  # Literal | bool
    or_switch = ", true or false" if is_also_bool else ""
    return f"{key} is {shown(fault['input'])}{hint}: {_lower_first(fault['msg'])}{or_switch}"


def _is_type_tag(part: int | str) -> bool:
    """Pydantic adds the union member it tried to the path of a fault (`int`, `tuple[...]`, `constrained-int`)."""
    return (isinstance(part, str) and not re.fullmatch(r"[A-Za-z]\w*", part)) or part in ("int", "float", "str", "bool")


def _keys_at(schema: type[BaseModel], path: list) -> list[str]:
    """The keys of the section at `path`, as written in a recipe."""
    annotation: Any = schema
    for part in path:
        model = model_in(annotation)
        if isinstance(part, str) and model is not None:
            annotation = model.model_fields[part].annotation
    model = model_in(annotation)
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside `Model`, `Model | None` or `list[Model]`; None for a model of a single value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return None if issubclass(annotation, RootModel) else annotation
    return next((model for argument in typing.get_args(annotation) if (model := model_in(argument))), None)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


# --- overrides ------------------------------------------------------------------------------------------------------


def _apply(values: dict, override: str) -> None:
    """Sets one value in place: `key.key=value`; a stage is given by number or name; the value is read as YAML."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"--set {override}: write KEY=VALUE, for example --set stages.1.steps=200")
    *parents, last = path.split(".")
    node: Any = values
    for part in parents:
        if isinstance(node, dict) and part not in node:
            node[part] = {}
        node = node[_index(node, part, override)]
    index = _index(node, last, override)
    node[index] = parse(text, f"--set {override}")


def _index(node: Any, part: str, override: str) -> Any:
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise UserError(f"--set {override}: there is nothing below {part!r} to set: its parent is a plain value")
    names = {item["name"]: index for index, item in enumerate(node) if isinstance(item, dict) and "name" in item}
    if part in names:
        return names[part]
    if part.isdigit() and int(part) < len(node):
        return int(part)
    choices = ", ".join(names) if names else "none has a name"
    raise UserError(f"--set {override}: {part!r} is not one of the {len(node)} entries 0..{len(node) - 1} ({choices})")
