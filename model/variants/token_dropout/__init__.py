"""Token dropout: [MASK] has no embedding, and the other tokens' are scaled up for it, as by dropout of whole tokens.

Lin et al. 2022 (ESM-2, doi 10.1101/2022.07.20.500902), from their released code: with a share m of [MASK] among a
sequence's tokens, all others' embeddings are multiplied by (1 - share) / (1 - m). A sequence without [MASK] then looks
to the model as one of training does on average.
"""

from typing import Annotated

from pydantic import Field

from model.fields import Index, Settings
from model.shape import Shape


class TokenDropout(Settings):
    mask_token: Index
    """The id of [MASK]."""
    share: Annotated[float, Field(ge=0, lt=1)] = 0.15 * 0.8
    """Share of the tokens of a training sequence that are [MASK]: by default 80% of 15%."""


class WithTokenDropout(Shape):
    token_dropout: TokenDropout | None = None
    """Give [MASK] no embedding, and scale up the others' (ESM-2): `{mask_token: 4}`, with the id of [MASK]."""

    @property
    def part_names(self) -> tuple[str, ...]:
        own = ("model.variants.token_dropout.layers:TokenDropoutParts",) if self.token_dropout else ()
        return super().part_names + own
