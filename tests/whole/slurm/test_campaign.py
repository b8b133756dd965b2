"""A run that loses a node; `python -m tests.whole.slurm.campaign --faults 200` is the long way."""

import random

from tests.support.tiny import write_recipe
from tests.whole.slurm.campaign import BOUNDARIES, CHANGES, IN_MEMORY, broken_run, compare
from tests.whole.slurm.watched import Watched

SEED = 0
"""The first node goes while a checkpoint is written."""


def test_a_run_that_loses_a_node_equals_an_undisturbed_one_bit_for_bit(breakable, corpus, tmp_path):
    """With dropout, and its state in memory between checkpoints."""
    recipe = write_recipe(tmp_path / "tiny.yaml", corpus, **CHANGES | IN_MEMORY)
    run = Watched(breakable, recipe, tmp_path / "runs", tmp_path, BOUNDARIES)
    faults = ["node cut off, outwards"]  # one without power: test_jobs.py
    *struck, finished = broken_run(run, random.Random(SEED), list(faults), len(faults))
    assert [line.get("fault") for line in struck] == faults and "finished" in finished, [*struck, finished]
    assert [line["left_over"] for line in struck] == [0]
    assert len(finished["legs"]) > 1
    compared = compare({**finished, "dropout": True}, tmp_path)
    assert compared.get("same_bits") and compared.get("same_losses"), compared
