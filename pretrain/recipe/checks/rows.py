"""Whether rows have room for text, and for the spans that are masked in them."""

from model.errors import UserError
from pretrain.recipe.schema import Data


def check_rows(data: Data, sequence: int) -> None:
    """Raises UserError for rows of `sequence` tokens that are too short."""
    shortest = data.sampling.shortest_row
    if sequence < shortest:
        raise UserError(f"sequence {sequence} is too short; it must be at least {shortest} tokens")
    if data.max_span > sequence:
        raise UserError(
            f"data.max_span {data.max_span} is longer than a row of {sequence} tokens, so next to nothing would be "
            "masked; lower it (10 in SpanBERT, 3 in ALBERT)"
        )
