"""ZeRO 3 gathers plain blocks whole, so that no small parameter has to stay on every rank."""

from dataclasses import replace

import pytest

from model.config import BertConfig
from pretrain.engine.zero import destroy
from tests.support.harness import CONFIG, settings, start, train
from tests.support.workers import pool


def losses_and_num_kept(
    zero: dict[str, int], config: BertConfig = CONFIG, recompute: bool = False
) -> tuple[list[float], int]:
    chosen = replace(settings(1, 3, **zero), recompute=recompute)
    engine = start(config, chosen)
    found = train(engine, 0, 4)
    num_kept = sum(parameter.ds_persist for parameter in engine.module.parameters())
    destroy(engine)
    return found, num_kept


LOCAL = CONFIG.replace(local_attention={"window": 4, "global_every": 2})


@pytest.mark.parametrize("config", [CONFIG, LOCAL], ids=["plain", "local"])
def test_no_small_parameter_stays_whole(config):
    assert [num_kept for _, num_kept in pool(2).run(losses_and_num_kept, {}, config)] == [0, 0]


@pytest.mark.parametrize(
    ("config", "recompute"),
    [(CONFIG.replace(sharing=1), False), (CONFIG.replace(frozen_layers=1), False), (CONFIG, True)],
    ids=["shared", "frozen", "recompute"],
)
def test_where_blocks_travel_in_parts_small_parameters_stay(config, recompute):
    assert all(num_kept > 0 for _, num_kept in pool(2).run(losses_and_num_kept, {}, config, recompute))


@pytest.mark.parametrize("config", [CONFIG, LOCAL], ids=["plain", "local"])
def test_the_users_own_threshold_is_kept_and_changes_nothing(config):
    for (ours, _), (losses, num_kept) in zip(
        pool(2).run(losses_and_num_kept, {}, config),
        pool(2).run(losses_and_num_kept, {"stage3_param_persistence_threshold": 100_000}, config),
        strict=True,
    ):
        assert num_kept > 0
        assert losses == ours
