"""The hooks that plugins bring, each made with the arguments that the recipe's `hooks` gives it under its name."""

from collections.abc import Iterator, Mapping
from inspect import Parameter, signature
from typing import Any, get_type_hints

from model.errors import UserError, nearest
from model.registry import added
from pretrain.recipe.load import explained
from pretrain.settings.joined import Key, joined
from pretrain.training.events import Hook

Options = Mapping[str, dict[str, Any]]


def hooks_of_plugins(options: Options) -> list[Hook]:
    """One of each class, oldest first."""
    return [kind(**arguments) for kind, arguments in _with_arguments(options)]


def check_options(options: Options) -> None:
    """Raises UserError for a name that no hook has, and for options that a hook does not take."""
    known = [_name(kind) for kind in added(Hook)]
    for name in options:
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "there are none; name its file under plugins"
            raise UserError(f"hooks.{name}: no plugin has such a hook{nearest(name, known)}; {there}")
    for _ in _with_arguments(options):
        pass


def _with_arguments(options: Options) -> Iterator[tuple[type[Hook], dict[str, Any]]]:
    for kind in added(Hook):
        name, keys = _name(kind), _keys(kind)
        with explained(schema := joined(keys), section=f"hooks.{name}"):
            given = schema.model_validate(options.get(name, {}))
        yield kind, {key: getattr(given, key) for key in keys}


def _name(kind: type[Hook]) -> str:
    return kind.name or kind.__name__


def _keys(kind: type[Hook]) -> dict[str, Key]:
    """The arguments of its `__init__`."""
    hints = get_type_hints(kind.__init__)
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return {
        name: (hints.get(name, Any), ... if parameter.default is Parameter.empty else parameter.default)
        for name, parameter in signature(kind).parameters.items()
        if parameter.kind in named
    }
