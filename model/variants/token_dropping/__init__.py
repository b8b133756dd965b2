"""Token dropping: the middle layers compute only the tokens that are hard to predict.

Hou et al. 2022 (arXiv 2203.13240). Of L layers, 0 to L/2 - 2 see all tokens. In layer L/2 - 1 the queries are the kept
tokens, the keys and values all of them. Layers L/2 to L - 2 see the kept tokens alone. The last layer sees all again,
in order, the dropped ones as layer L/2 - 1 found them. The kept tokens of a row are those whose words have the highest
loss, by a table that the run learns (`table.py`). In evaluation every layer sees all tokens.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from model.fields import Flag, Probability, Settings
from model.shape import Shape


class TokenDropping(Settings):
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of a row's tokens that the middle layers compute. The paper keeps 256 of 512."""
    beta: Probability = 0.995
    """How much of an entry's mean loss stays in a step that predicts it; the rest is the loss of that step."""

    def num_kept(self, sequence: int) -> int:
        """Tokens of a row of `sequence`."""
        return max(1, round(self.keep * sequence))


class WithTokenDropping(Shape):
    token_dropping: Annotated[TokenDropping | None, Flag.FREE, Flag.PLAIN_AT_EXPORT, Flag.NOT_IN_TARGET] = None
    """Compute only the tokens with the highest losses in the middle layers: `{keep: 0.5}`, or `{}`. A stage may set it,
    change it, or end it with `null`."""

    @property
    def narrowing_layer(self) -> int:
        """The layer in which kept tokens look at all tokens."""
        return self.layers // 2 - 1

    @property
    def part_names(self) -> tuple[str, ...]:
        own = ("model.variants.token_dropping.layers:TokenDroppingParts",) if self.token_dropping else ()
        return super().part_names + own

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        if self.token_dropping and self.layers < 2:
            yield f"token_dropping needs two layers, one of them above those that drop tokens; layers is {self.layers}"
        how_it_runs = "both decide how a layer runs"
        reasons = {
            "attention": "a kernel needs as many queries as keys, and one layer has fewer",
            "layer_drop": how_it_runs,
            "light_layers": "the attention map of all tokens is none of the kept ones",
            "local_attention": "kept tokens have no neighbours at fixed distances",
            "masked.layers": how_it_runs,
            "pool_window": "both decide which tokens the layers compute",
            "sub_models": how_it_runs,
        }
        yield from self.clashes("token_dropping", reasons)

    def refused_with(self) -> Mapping[str, str]:
        divided = "layout.sequence_parallel gives each rank equally many tokens of a row, and those that token_dropping"
        causal = "objective clm predicts each token from those before it, and which tokens token_dropping keeps follows"
        own = {
            "sequence_parallel": f"{divided} keeps lie anywhere; leave one of them out",
            "causal": f"{causal} from the whole row; leave one of them out",
        }
        return {**super().refused_with(), **(own if self.token_dropping else {})}

    def num_tokens(self, layer: int, sequence: int, num_predictions: float) -> tuple[float, float]:
        if not self.token_dropping or layer < self.narrowing_layer or layer == self.layers - 1:
            return super().num_tokens(layer, sequence, num_predictions)
        num_kept = self.token_dropping.num_kept(sequence)
        return num_kept, sequence if layer == self.narrowing_layer else num_kept
