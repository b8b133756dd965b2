"""ZeRO 3 gathers plain blocks whole, so that no small parameter has to stay on every rank."""

from pretrain.engine.zero import destroy
from tests.engine.harness import CONFIG, settings, start, train
from tests.workers import pool


def losses_and_num_kept(zero: dict[str, int]) -> tuple[list[float], int]:
    engine = start(CONFIG, settings(1, 3, **zero))
    found = train(engine, 0, 4)
    num_kept = sum(parameter.ds_persist for parameter in engine.module.parameters())
    destroy(engine)
    return found, num_kept


def test_no_small_parameter_stays_whole():
    assert [num_kept for _, num_kept in pool(2).run(losses_and_num_kept, {})] == [0, 0]


def test_the_users_own_threshold_is_kept_and_changes_nothing():
    for (ours, _), (losses, num_kept) in zip(
        pool(2).run(losses_and_num_kept, {}),
        pool(2).run(losses_and_num_kept, {"stage3_param_persistence_threshold": 100_000}),
        strict=True,
    ):
        assert num_kept > 0
        assert losses == ours
