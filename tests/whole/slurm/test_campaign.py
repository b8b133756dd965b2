"""A run that loses a node; `python -m tests.whole.slurm.campaign --faults 200` is the long way."""

import random

from tests.support.tiny import write_recipe
from tests.whole.slurm.campaign import BOUNDARIES, CHANGES, IN_MEMORY, broken_run, compare
from tests.whole.slurm.watched import Watched

SEED = 1
"""The node goes nine steps after the first one, when there is a state in memory."""


def test_a_run_that_loses_a_node_equals_an_undisturbed_one_bit_for_bit(breakable, corpus, tmp_path):
    """With dropout, and its state in memory between checkpoints."""
    recipe = write_recipe(tmp_path / "tiny.yaml", corpus, **CHANGES | IN_MEMORY)
    run = Watched(breakable, recipe, tmp_path / "runs", tmp_path, BOUNDARIES)
    fault = "node cut off, outwards"  # one without power: test_jobs.py
    lines = list(broken_run(run, random.Random(SEED), [fault], 1))
    assert lines[0].get("fault") == fault and lines[0].get("left_over") == 0 and "finished" in lines[-1], lines
    finished = lines[-1]
    assert len(finished["legs"]) > 1
    compared = compare({**finished, "dropout": True}, tmp_path)
    assert compared.get("same_bits") and compared.get("same_losses"), compared
