"""Where asking takes long beside a step, ranks ask every few steps, all at the same ones."""

from types import SimpleNamespace
from unittest.mock import MagicMock, patch

import pytest
import torch.distributed as dist

from pretrain.engine import signals
from pretrain.engine.exits import Stop
from pretrain.training.hooks import preemption
from pretrain.training.hooks.preemption import NUM_TIMED, Asking, Preemption
from tests.support.workers import pool

NUM_STEPS = 10


@pytest.mark.parametrize(
    ("asking_seconds", "step_seconds", "every"),
    [(0.0002, 0.1, 1), (0.00018, 0.01, 4), (0.04, 0.095, 10), (0.04, 0.6, 1), (0.04, 30.0, 1)],
    ids=["few ranks", "few ranks, short steps", "many ranks", "within a second", "long steps"],
)
def test_asking_takes_little_of_a_step_and_a_signal_does_not_wait_long(asking_seconds, step_seconds, every):
    clock = [0.0]
    asked_at = []

    def answer(is_asked: bool, steps: int) -> list[int]:
        clock[0] += asking_seconds + (1.0 if len(asked_at) % 2 else 0)  # every other time for a slow rank
        return [is_asked, steps]

    asking = Asking()
    with (
        patch.object(preemption, "largest", answer),
        patch.object(preemption.time, "perf_counter", lambda: clock[0]),
        patch.object(dist, "get_rank", lambda: 0),
    ):
        for step in range(NUM_TIMED + 5 * every):
            clock[0] += step_seconds
            if asking.is_due():
                asking.ask()
                asked_at.append(step)
    assert asked_at[:NUM_TIMED] == list(range(NUM_TIMED))
    assert asked_at[NUM_TIMED:] == list(range(NUM_TIMED, NUM_TIMED + 5 * every, every))


def asked_and_stopped(signalled_after: int | None, saved_at: int | None = None) -> tuple[list[int], int | None]:
    """The steps at which this rank asks in a stage of 10, if rank 0 wants every fourth; and where it stops, if the
    last rank gets a signal after a step. At `saved_at` there is a checkpoint, and a validation after it."""
    hook, asked_at = Preemption(MagicMock(saved_step=saved_at)), []
    progress = SimpleNamespace(step=0)
    trainer = SimpleNamespace(now=0, stage=SimpleNamespace(end=NUM_STEPS), progress=progress)
    hook.on_stage(trainer, trainer.stage)
    ask = hook.asking.ask

    def noted() -> bool:
        asked_at.append(trainer.now)
        return ask()

    hook.asking.ask = noted
    try:
        with patch.object(Asking, "_steps", lambda self, now: 4):
            for trainer.now in range(1, NUM_STEPS + 1):
                progress.step = trainer.now
                hook.on_boundary(trainer)
                if trainer.now == saved_at:
                    hook.on_validation(trainer, MagicMock())
                if trainer.now == signalled_after and dist.get_rank() == dist.get_world_size() - 1:
                    signals.received = "SIGUSR1"
    except Stop:
        return asked_at, trainer.now
    finally:
        signals.received = None
    return asked_at, None


def test_all_ranks_ask_and_stop_at_the_same_steps_and_at_the_last_of_a_stage():
    assert pool(2).run(asked_and_stopped, None) == [([1, 5, 9, 10], None)] * 2
    assert pool(2).run(asked_and_stopped, 2) == [([1, 5], 5)] * 2
    assert pool(2).run(asked_and_stopped, 9) == [([1, 5, 9, 10], 10)] * 2


def test_they_ask_where_a_checkpoint_is_and_after_a_validation():
    """The run may leave at the one, for other nodes, and the other takes long."""
    assert pool(2).run(asked_and_stopped, 2, 3) == [([1, 3], 3)] * 2
    assert pool(2).run(asked_and_stopped, 3, 3) == [([1, 3, 4], 4)] * 2
