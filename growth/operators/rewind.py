"""Rewinding: back to the weights of an earlier state of the same shape, with a fresh optimizer.

Chen et al. 2021 (EarlyBERT, arXiv 2101.00063), from its released code: the ticket that the search found is trained
from the weights before the first step. Learned slimming coefficients stay, so a later prune can use them. Tier 3: the
function becomes the earlier one; all moments and steps start from zero.
"""

from typing import ClassVar

from growth.operators.saved_state import INITIAL, SavedStateOperator
from growth.state import Fetch, Record
from model.parameters import ParameterSpec


class Rewind(SavedStateOperator):
    name: ClassVar[str] = "rewind"

    checkpoint: str = INITIAL
    """The earlier state: `initial` is the state of the run before its first step. Otherwise a name that an earlier
    stage keeps, the folder of a run, or one of its checkpoints."""

    def record(self, spec: ParameterSpec, fetch: Fetch, fetch_saved: Fetch) -> Record:
        is_coefficient = spec.name.endswith(".coefficients")
        return (fetch if is_coefficient else fetch_saved)(spec.name).without_moments()
