"""What attention costs a GPU that lacks a kernel for what the recipe asks."""

from collections.abc import Iterator
from importlib.util import find_spec

from pretrain.recipe import Run


def masked_attention(run: Run, on_cpu: bool) -> Iterator[str]:
    """A line where attention dropout rules out torch's own kernel for runs of tokens (`model.attention_kernels`)."""
    dropped = [stage.config.attention_dropout for stage in run.stages if stage.config.attention == "softmax"]
    if not on_cpu and any(dropped) and find_spec("flash_attn") is None:
        yield (
            f"warning: with attention_dropout {max(dropped)} a GPU computes all products of packed or padded rows, and "
            "a mask, unless the package flash-attn is installed where it trains: install it, or set "
            "model.attention_dropout to 0"
        )
