"""Units that start as copies of one another and that training can never tell apart: width that is paid for in vain."""

from collections.abc import Iterator
from itertools import pairwise

from growth.operators import shapes
from model.config import BertConfig
from pretrain.recipe import Run

NEVER = "nothing tells them apart; give the operator noise"
DROPOUT = ", or the stage dropout"
FROZEN = "their layers are frozen to the end"


def equal_copies(run: Run) -> Iterator[str]:
    """A line for each stage that copies units which are still equal when the run ends."""
    equal: dict[str, str] = {}
    frozen: dict[tuple[str, int], str] = {}
    for before, stage in pairwise(run.stages):
        origin = f"stage {stage.name}: {'+'.join(operator.name for operator in stage.grow)}"
        path = shapes(before.config, stage.grow, stage.shape)
        for operator, source, target in zip(stage.grow, path, path[1:], strict=False):
            copied = operator.copied_units(source, target)
            equal |= {axis: origin for axis, _ in copied}
            frozen |= {(axis, block): origin for axis, block in copied if block is not None}
            if operator.tells_copies_apart:
                equal.clear()
        equal = {axis: origin for axis, origin in equal.items() if not _dropout(stage.config, axis)}
        frozen = {key: origin for key, origin in frozen.items() if _is_frozen(stage.config, key[1])}
    yield from _lines(equal, NEVER)
    yield from _lines({axis: origin for (axis, _), origin in frozen.items() if axis not in equal}, FROZEN)


def _dropout(config: BertConfig, axis: str) -> float:
    """The dropout that the copies of a unit do not share: of the attention map, of the residual stream, or none."""
    return {"heads": config.attention_dropout, "ffn": 0.0}.get(axis, config.hidden_dropout)


def _is_frozen(config: BertConfig, block: int) -> bool:
    return block < config.num_blocks and config.is_frozen(block)


def _lines(origins: dict[str, str], reason: str) -> Iterator[str]:
    """`origins`: where the copies on each axis come from."""
    for origin in dict.fromkeys(origins.values()):
        axes = sorted(axis for axis in origins if origins[axis] == origin)
        remedy = DROPOUT if reason == NEVER and "ffn" not in axes else ""  # no dropout tells FFN units apart
        yield f"warning: {origin} makes copies of {', '.join(axes)} units that stay equal: {reason}{remedy}"
