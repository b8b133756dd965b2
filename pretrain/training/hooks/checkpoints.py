"""Saves the run every N steps and every few minutes, just before a change of shape, and at the end."""

import hashlib
import json
import statistics
import time
from collections import deque
from typing import Any

import torch.distributed as dist

from growth.operators.saved_state import INITIAL
from growth.state import TrainingState
from pretrain.checkpoint import CheckpointStore
from pretrain.engine.exchange import read_state
from pretrain.engine.move import loss_scaler_state
from pretrain.recipe.schema import Checkpoint
from pretrain.runs.folder import RunFolder, versions
from pretrain.training.events import Hook, StepResult, TrainerView
from pretrain.training.pace import Pace

RANDOMNESS = "every stream is drawn from (seed, step, micro-batch, data-parallel rank): nothing to restore"


class Checkpoints(Hook):
    def __init__(self, folder: RunFolder, settings: Checkpoint):
        self.every = settings.every
        self.pace = Pace(60 * settings.minutes)
        self.store = CheckpointStore(
            folder.checkpoints, settings.keep_last, settings.keep_every, settings.background, folder.start
        )
        self.saved_step: int | None = None
        self.pause_seconds = 0.0
        self.reported = True
        self.step_seconds: deque[float] = deque(maxlen=20)
        self.last_seconds = 0.0

    def on_start(self, trainer: TrainerView) -> None:
        self.saved_step = trainer.progress.step  # it was loaded from there, or has nothing to save yet
        self.pace.begin(trainer.progress.step)
        if trainer.progress.step == 0 and INITIAL in trainer.run.saved_states:
            self.save(trainer, INITIAL)
        self.last_seconds = trainer.progress.train_seconds

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        self.step_seconds.append(result.seconds - self.last_seconds)
        self.last_seconds = result.seconds

    def on_boundary(self, trainer: TrainerView) -> None:
        self._report(trainer)
        last_of_stage = trainer.now >= trainer.stage.end
        if last_of_stage and trainer.stage.keep:
            self.save(trainer, trainer.stage.keep)
        step = trainer.progress.step
        if last_of_stage or (self.every and step % self.every == 0) or self.pace.is_over(step):
            self.save(trainer)

    def on_end(self, trainer: TrainerView) -> None:
        self.store.flush()
        self._report(trainer)

    def on_leave(self, trainer: TrainerView) -> None:
        self.store.flush()

    def save(self, trainer: TrainerView, name: str = "") -> None:
        """Saves the current state, unless this step is already saved. Collective.

        With a `name` the checkpoint is kept permanently at checkpoints/NAME, as a point to return to.
        """
        if not name:
            if self.saved_step == trainer.progress.step:
                return
            self.saved_step = trainer.progress.step
            self.pace.begin(trainer.progress.step)
        trainer.call("on_save")
        trainer.start_activity(f"checkpoint at step {trainer.progress.step}")
        start = time.perf_counter()
        self.store.flush()
        self._report(trainer)  # the one before, if steps were quicker than its writing
        self.store.save(trainer.progress.step, *state_of(trainer), name)
        self.pause_seconds = time.perf_counter() - start
        self.reported = False

    def _report(self, trainer: TrainerView) -> None:
        """Reports, once the checkpoint is on disk, how long steps waited for it and how long the writing took."""
        written = self.store.written
        if written is None or self.reported:
            return
        self.reported = True
        step_seconds = statistics.median(self.step_seconds) if self.step_seconds else float("nan")
        event = {
            "event": "checkpoint",
            "step": trainer.progress.step,
            "name": written.path.name,
            "pause_seconds": self.pause_seconds,
            "pause_steps": self.pause_seconds / step_seconds,
            "write_seconds": written.seconds,
            "bytes": written.num_bytes,
        }
        trainer.call("on_event", event)


def state_of(trainer: TrainerView) -> tuple[TrainingState, dict[str, Any]]:
    """What a checkpoint holds: the tensors, each on its owner, and as JSON everything else. Collective."""
    trainer.progress.loss_scaler = loss_scaler_state(trainer.engine)
    return read_state(trainer.engine), _run_state(trainer)


def _run_state(trainer: TrainerView) -> dict[str, Any]:
    """Everything except the tensors that a reader, or the next step, may need."""
    run, stage = trainer.run, trainer.stage
    recipe = json.loads(run.recipe.model_dump_json(by_alias=True))
    return {
        "progress": trainer.progress.to_json(),
        "stage": {"index": stage.index, "name": stage.name},
        "schedule": {"unit": run.unit, "now": trainer.now, "learning_rate": run.learning_rate(trainer.now)},
        "randomness": {"seed": run.recipe.seed, "streams": RANDOMNESS},
        "objective": stage.objective,
        "sequence": stage.sequence,
        "optimizer": stage.optimizer.model_dump(),
        "corpus": str(trainer.corpus.path.resolve()),
        "tokenizer": trainer.corpus.tokenizer_hash,
        "recipe": recipe,
        "recipe_sha256": hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest(),
        "written_under": {
            "ranks": dist.get_world_size(),
            "tensor_parallel": stage.tensor_parallel,
            "data_parallel": stage.data_parallel,
            "zero_stage": stage.zero_stage,
            "precision": stage.precision,
        },
        "versions": versions(),
        "hooks": {hook.name: hook.state() for hook in trainer.hooks if hook.name},
    }
