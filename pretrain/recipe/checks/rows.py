"""Whether rows have room for text, and for the spans that are masked in them."""

from model.errors import UserError
from pretrain.recipe.schema import Data


def check_rows(data: Data, sequence: int) -> None:
    """Raises UserError for rows of `sequence` tokens that are too short."""
    shortest = data.sampling.shortest_row
    if sequence < shortest:
        raise UserError(f"sequence {sequence} is too short; it must be at least {shortest} tokens")
    # Spans that do not fit into the share to be masked are passed over. With `inverse` lengths, half of all tokens
    # lie in the longer half of spans: beyond half a row, too few are left to reach `mask_rate`.
    longest = sequence // 2 if data.span_lengths == "inverse" else sequence
    if data.max_span > longest:
        raise UserError(
            f"data.max_span {data.max_span} is too long for rows of {sequence} tokens, of which too few would be "
            f"masked; it may be at most {longest} (10 in SpanBERT, 3 in ALBERT)"
        )
