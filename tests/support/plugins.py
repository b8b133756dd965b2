"""Plugins that a test loads into its own process are none of the others' business."""

import sys

from growth.operators import OPERATORS
from growth.operators.base import Operator
from model import registry
from pretrain.settings import plugins


def forget_plugins() -> None:
    """Of operators and hooks. Other kinds change classes for good: load them in a process of their own."""
    for operator in registry.added(Operator):
        del OPERATORS[operator.name]  # type: ignore[attr-defined]
    registry._added.clear()
    plugins._loaded.clear()
    for name in [name for name in sys.modules if name.startswith("espalier_plugin_")]:
        del sys.modules[name]
