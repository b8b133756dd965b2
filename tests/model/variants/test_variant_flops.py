"""The FLOP formula of every variant against torch's counter on the real model."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.cost.flops import training_flops
from tests.support.running import build, random_batch, small_config
from tests.support.variants import VARIANTS

OTHER = {"layer_drop", "pool_window", "local_attention"}  # which is computed by blocks; the formula counts what is seen
CONSTANT = {name: changes for name, changes in VARIANTS.items() if not OTHER & changes.keys()}


@pytest.mark.parametrize("changes", CONSTANT.values(), ids=CONSTANT)
def test_formula_equals_the_counter(changes):
    config = small_config(vocab_size=128, **changes)  # a padded vocabulary would be counted, and is not work
    batch = random_batch(config, "full", rows=3, length=12)
    model = build(config, dtype=torch.float32).train()
    with FlopCounterMode(display=False) as counter:
        model(batch).loss.backward()
    assert counter.get_total_flops() == training_flops(config, 3, 12, len(batch.masked_ids))
