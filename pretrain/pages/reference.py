"""Writes docs/reference.md from the code that reads recipes: `python -m pretrain.pages.reference`.

Keys, types, defaults and meanings come from the schema, the model's fields and the operators' options.
"""

import ast
import inspect
import json
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from growth.operators import OPERATORS
from growth.operators.base import Operator
from model.config import PRESETS, BertConfig
from pretrain.optim.section import Optimizer
from pretrain.recipe.load import model_in
from pretrain.recipe.schema import Recipe, Stage
from pretrain.recipe.shape_request import ShapeRequest
from pretrain.settings.joined import JOINED
from pretrain.settings.values import Share
from pretrain.stage_rules.until import Until

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"

INTRODUCTION = """\
Every key of a recipe, every field of the model and every operator. [recipes.md](recipes.md) explains how they work
together. This page is written by `python -m pretrain.pages.reference` from the code."""

APART: dict[type[BaseModel], str] = {Optimizer: "settings", Until: "rules", ShapeRequest: "fields of the model"}
"""Sections that have their own table, and the word for them in other tables."""

SHAPE = """\
`model` takes these fields and `preset`. A stage's `shape` takes the fields that change. The corpus sets the vocabulary
size."""

MODERN = """\
Those of ModernBERT and ESM-2 also set what makes them different from BERT: rotary positions, and the norms, biases,
gates and dropout of the published models."""

OPTIMIZER = """\
The settings of `optimizer`, for the run or from a stage on: a stage gives all of them. [optimizers.md](optimizers.md)
says what carries over."""

UNTIL = """\
The rules that a stage's `until` takes. With several, the first that holds ends the stage. A name alone gives a rule its
defaults: `until: auto`. A stage's `split` takes the keys of `until.gradient_correlation`."""

GROW = """\
The operators that `grow` can name. *Tier 1* preserves the function: the loss is the same just after the change. *Tier
2* also preserves the training state: the next update is the one that the new shape would have made. In *tier 3* the
function or the optimizer's state is an estimate; the run logs the loss before and after. Every operator takes the
option `moments`: `transform` (the default) maps the optimizer's moments by the operator's own rule, `copy` copies them
without rescaling, `reset` sets them to zero. Use `reset` to reproduce a paper that starts a new optimizer at each
change. `widen`, `tile_ffn` and `ligo` take `new_units`, too: old units keep their moments, new ones begin at zero
([growth.md](growth.md#optimizer-moments))."""


def reference() -> str:
    """The whole page."""
    sizes = "; ".join(
        f"`{name}` {', '.join(str(values[field]) for field in PRESETS['base'])}" for name, values in PRESETS.items()
    )
    by_module: dict[str, list] = {}
    for operator in OPERATORS.values():
        by_module.setdefault(operator.__module__, []).append(operator)
    parts = [
        "# Reference",
        INTRODUCTION,
        "## The run",
        table(Recipe),
        "## A stage",
        "A key that a stage omits keeps its value from the stage before, but for `schedule`, `until`, `split`, `keep` "
        "and `grow`, which are of one stage alone, and `align`, which lasts as long as it says.",
        table(Stage),
        "## The optimizer",
        OPTIMIZER,
        table(Optimizer, prefix="optimizer."),
        "## The end of a stage",
        UNTIL,
        table(Until),
        "## The shape",
        f"{SHAPE} A preset sets {', '.join(PRESETS['base'])}: {sizes}. {MODERN}",
        table(BertConfig, without=("vocab_size",)),
        "## Operators",
        GROW,
        *(part for operators in by_module.values() for part in operator_parts(operators)),
    ]
    return "\n\n".join(parts) + "\n"


def table(schema: type[BaseModel], without: tuple[str, ...] = (), prefix: str = "") -> str:
    rows = [(key, field, text) for key, field, text in keys(schema, prefix) if key not in without]
    lines = ["| key | value | default | |", "|---|---|---|---|"]
    for key, field, text in rows:
        lines.append(f"| `{key}` | {kind(field.annotation)} | {default(field)} | {text} |")
    return "\n".join(lines)


def keys(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """(dotted key, field, meaning) of a section and its subsections, except those that have their own table."""
    meanings = attribute_docs(schema)
    for name, field in schema.model_fields.items():
        key = prefix + (field.alias or name)
        section = model_in(field.annotation)
        if section in APART or section is None or typing.get_origin(field.annotation) is list:
            yield key, field, meanings.get(name) or single_value_doc(field.annotation)
        else:
            yield from keys(section, f"{key}.")


def attribute_docs(schema: type) -> dict[str, str]:
    """The string below each attribute of a class, of its bases and of the sections that it joins."""
    docs: dict[str, str] = {}
    classes = [*schema.__mro__, *(base for part in getattr(schema, "declared_in", ()) for base in part.__mro__)]
    for base in reversed(classes):
        if base.__module__.split(".")[0] not in ("model", "growth", "pretrain") or base.__name__ == JOINED:
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for attribute, below in zip(node.body, node.body[1:], strict=False):
            if isinstance(attribute, ast.AnnAssign) and isinstance(below, ast.Expr):
                docs[ast.unparse(attribute.target)] = " ".join(str(ast.literal_eval(below.value)).split())
    return docs


def single_value_doc(annotation: Any) -> str:
    """What a model of a single value says of itself, inside `Model | None`."""
    model = next((part for part in typing.get_args(annotation) if is_single_value(part)), None)
    return " ".join((inspect.getdoc(model) or "").split()) if model else ""


def is_single_value(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, RootModel)


def kind(annotation: Any) -> str:
    """A type in words."""
    if typing.get_origin(annotation) is typing.Annotated:
        return kind(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is Literal:
        return " \\| ".join(f"`{value}`" for value in typing.get_args(annotation))
    if typing.get_origin(annotation) in (UnionType, typing.Union):
        return " or ".join(kind(part) for part in typing.get_args(annotation) if part is not NoneType)
    if typing.get_origin(annotation) in (list, tuple):
        part = typing.get_args(annotation)[0]
        inner = typing.get_args(part)
        if typing.get_origin(part) is tuple and ... not in inner:  # pairs, which a recipe writes as a mapping
            return f"mapping of {' to '.join(map(kind, inner))}"
        return "stages" if model_in(part) else f"list of {kind(part)}"
    if typing.get_origin(annotation) is dict:
        return "mapping"
    if annotation in APART:
        return APART[annotation]
    if is_single_value(annotation):
        return kind(annotation.model_fields["root"].annotation)
    return {int: "integer", float: "number", str: "text", bool: "`true` \\| `false`", Share: "share (`10%`)"}[
        annotation
    ]


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    assert value is not PydanticUndefined
    is_empty = isinstance(value, BaseModel) or value in (None, {}, [], ())
    return "" if is_empty else f"`{value if isinstance(value, str | Share) else json.dumps(value)}`"


def operator_parts(operators: list[type[Operator]]) -> Iterator[str]:
    """The operators of one module: heading, the module's docstring, and their options."""
    yield f"### {', '.join(operator.name for operator in operators)}"
    fields = dict.fromkeys(field for operator in operators for field in operator.changes)
    yield f"Changes {', '.join(f'`{field}`' for field in fields)}." if fields else "Changes no field."
    yield (sys.modules[operators[0].__module__].__doc__ or "").strip()
    options = [row for row in keys(operators[0]) if row[0] != "moments"]
    if options:
        yield "\n".join(_option(*row) for row in options)


def _option(key: str, field: FieldInfo, text: str) -> str:
    shown = default(field)
    return f"- `{key}` ({kind(field.annotation)}{f', default {shown}' if shown else ''}): {text}"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
