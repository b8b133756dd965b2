"""The messages that the cost model counts are those that two ranks send."""

from collections import Counter
from dataclasses import replace

import pytest

from model.config import BertConfig
from pretrain.cost.time.messages import LOSS_TABLE_BYTES, TRAINER_BYTES, messages
from pretrain.data.objective import MaskRate
from pretrain.engine.zero import destroy
from pretrain.recipe import ResolvedStage, resolve
from pretrain.simulation.messages import recorded
from tests.support.harness import CONFIG, GLOBAL_ROWS, LENGTH, MASKED_PER_ROW, start, train
from tests.support.made_up import made_up_recipe
from tests.support.sharded import OPTIONS, optimizer_settings
from tests.support.workers import pool

TINY_BUCKETS = {"reduce_bucket_size": 5_000, "stage3_prefetch_bucket_size": 6_000}
HARNESS = ("all-reduce", 8)
"""The harness sums the loss after a step."""


Options = dict[str, int]


def sent(
    optimizer: str, tp: int, zero: int, precision: str, accumulation: int, options: Options, config: BertConfig = CONFIG
) -> Counter:
    """What this rank sends in the third step: how often each kind and size."""
    engine = start(config, optimizer_settings(optimizer, tp, zero, precision, accumulation=accumulation, **options))
    train(engine, 0, 2)
    with recorded() as messages_sent:
        train(engine, 2, 1)
    destroy(engine)
    return Counter((kind, num_bytes) for kind, _, num_bytes in messages_sent) - Counter([HARNESS])


def planned(
    optimizer: str, tp: int, zero: int, precision: str, accumulation: int, options: Options, config: BertConfig = CONFIG
) -> ResolvedStage:
    recipe = made_up_recipe("planned", 4, batch={"global": GLOBAL_ROWS}, sequence=LENGTH, optimizer=OPTIONS[optimizer])
    return replace(
        resolve(recipe, CONFIG.vocab_size, 2).stages[0],
        config=config,
        mask_rate=MaskRate(MASKED_PER_ROW / LENGTH, MASKED_PER_ROW / LENGTH),
        tensor_parallel=tp,
        data_parallel=2 // tp,
        zero_stage=zero,
        precision=precision,
        accumulation=accumulation,
        micro_batch=GLOBAL_ROWS * tp // 2 // accumulation,
        deepspeed={"zero_optimization": {"stage": zero, **options}},
    )


@pytest.mark.parametrize(
    ("optimizer", "tp", "zero", "precision", "accumulation", "options"),
    [
        ("adamw", 1, 0, "fp32", 2, {}),
        ("adamw", 1, 1, "bf16", 2, TINY_BUCKETS),
        ("adamw", 1, 2, "fp32", 2, TINY_BUCKETS),
        ("adamw", 1, 3, "fp32", 2, {}),
        ("adamw", 1, 3, "bf16", 2, TINY_BUCKETS),
        ("adamw", 2, 0, "bf16", 2, {}),
        ("adamw", 2, 2, "fp32", 1, {}),
        ("clipped", 1, 2, "bf16", 2, TINY_BUCKETS),
        ("clipped", 2, 1, "fp32", 2, {}),
        ("muon", 1, 0, "fp32", 1, {}),
        ("muon", 1, 1, "bf16", 2, TINY_BUCKETS),
        ("muon", 1, 3, "fp32", 2, TINY_BUCKETS),
        ("muon", 2, 2, "fp32", 1, {}),
    ],
)
def test_they_are_those_that_two_ranks_send(optimizer, tp, zero, precision, accumulation, options):
    compare(optimizer, tp, zero, precision, accumulation, options)


@pytest.mark.parametrize(("tp", "zero"), [(2, 1), (1, 3)])
def test_layers_of_fewer_tokens_send_less(tp, zero):
    """And the parts of a block that looks at more tokens than it computes are gathered one by one."""
    compare("adamw", tp, zero, "fp32", 1, {}, CONFIG.replace(layers=4, token_dropping={}))


def compare(*case) -> None:
    counted: Counter = Counter()
    stage = planned(*case)
    for message in messages(stage, on_cpu=True):
        counted[message.kind, message.num_bytes] += message.times
    of_hooks = [TRAINER_BYTES] * (stage.tensor_parallel == 1)
    of_hooks += [LOSS_TABLE_BYTES * stage.config.vocab_size] * (stage.config.token_dropping is not None)
    for num_bytes in of_hooks:  # the harness has none
        assert counted["all-reduce", num_bytes] == 1
        del counted["all-reduce", num_bytes]
    for rank in pool(2).run(sent, *case):
        assert rank == counted
