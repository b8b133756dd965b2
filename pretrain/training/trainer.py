"""The training loop: stage by stage, step by step. Everything that happens between steps is a hook's."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch.profiler import record_function

from growth.state import TrainingState, fresh_state
from model.batch import Batch
from pretrain.checkpoint.progress import Decision, Progress
from pretrain.cost.flops import training_flops
from pretrain.cost.savings import stage_flops, teacher_flops
from pretrain.data import Corpus
from pretrain.data.ahead import ReadingProcess
from pretrain.data.objective import Objective
from pretrain.engine.deterministic import deterministic
from pretrain.engine.distributed import computes_on_gpu, device_clock, host_group
from pretrain.engine.fast_fp32 import fast_fp32
from pretrain.engine.host_memory import return_freed_memory
from pretrain.engine.norm import gradient_norm_after_step
from pretrain.engine.zero import basic_optimizer
from pretrain.optim.groups import set_learning_rate
from pretrain.recipe import ResolvedStage, Run
from pretrain.recipe.decisions import decided
from pretrain.training import stages
from pretrain.training.evaluation import evaluate, mean, validation_rows
from pretrain.training.events import Activity, Hook, StepResult
from pretrain.training.growth_inputs import PROBE_ROWS
from pretrain.training.place import data_parallel_rank
from pretrain.training.reading import Reader
from pretrain.training.update import update


class Trainer:
    """Trains a run from a logical state. Every rank makes one and calls `fit` once, then `close`."""

    run: Run
    stage: ResolvedStage
    engine: DeepSpeedEngine  # None before the first stage and while the state moves to another engine
    reader: Reader

    def __init__(
        self,
        run: Run,
        corpus: Corpus,
        hooks: Sequence[Hook],
        state: TrainingState | None = None,
        progress: Progress | None = None,
        checkpoints: Path | None = None,
    ):
        """`state` defaults to fresh weights. `checkpoints` is the folder where the run saves states by name."""
        self.run = run
        self.corpus = corpus
        self.hooks = hooks
        self.progress = progress or Progress()
        self.checkpoints = checkpoints
        self.stage = run.stages[self.progress.stage]
        self.engine = None
        self.activity = Activity(0, "start", time.monotonic())
        self._reading = ReadingProcess(corpus.files) if computes_on_gpu() else None  # starts while the engine is built
        self._start_state: TrainingState | None = state or fresh_state(
            run.stages[0].config, run.recipe.seed, dist.get_rank(), dist.get_world_size()
        )

    # ---- the loop ----

    def fit(self) -> None:
        """Takes all steps that are left. A run that was saved between two stages begins with the change of shape."""
        with fast_fp32(self.run.recipe.tf32), deterministic(self.run.recipe.deterministic):
            self._fit()

    def _fit(self) -> None:
        first = index = self.progress.stage
        while index < len(self.run.stages):
            self._enter(self.run.stages[index])
            if index == first:
                self.call("on_start")
                if self.progress.step == 0:
                    self.validate()
            if self.now < self.stage.end:
                self.call("on_stage", self.stage)
            while self.now < self.stage.end:
                self._step()
                self.call("on_boundary")
            index += 1
        self.validate()
        self.call("on_end")

    def close(self) -> None:
        """Frees the engine, and ends the process that reads ahead."""
        if self._reading is not None:
            self._reading.close()
        stages.close_engine(self)

    @property
    def now(self) -> float:
        """The run's clock: optimizer steps taken, or seconds trained where the recipe gives a budget in hours."""
        return self.progress.step if self.run.unit == "steps" else self.progress.train_seconds

    def decide(self, decision: Decision) -> None:
        """Changes the stages of the run from here on. Every rank has to make the same decision; checkpoints keep it."""
        self.progress.decisions.append(decision)
        self.run = decided(self.run, [decision])
        self.stage = self.run.stages[self.stage.index]

    def call(self, place: str, *arguments: Any) -> None:
        """Calls a method of `Hook` on every hook, in their order."""
        for hook in self.hooks:
            getattr(hook, place)(self, *arguments)

    def start_activity(self, name: str) -> None:
        """Tells the watchdog what this rank does from now on."""
        self.activity = Activity(self.activity.number + 1, name, time.monotonic())

    def _enter(self, stage: ResolvedStage) -> None:
        """Makes `stage` the current one: engine, progress and data."""
        previous, self.stage = self.stage, stage
        self.start_activity(f"entry into stage {stage.name}")
        if self.engine is None:
            stages.start(self, self._take_start_state())
        else:
            stages.move_on(self, previous, self.checkpoints)
        return_freed_memory()
        stage = self.stage  # its shape may have been settled on the way
        self.progress.stage = stage.index
        self.reader = Reader(self.corpus, self.run.recipe, stage, self.progress.position, self._reading)

    def _take_start_state(self) -> TrainingState:
        """Hands the state over. A reference kept here would keep its memory."""
        state, self._start_state = self._start_state, None
        assert state is not None
        return state

    # ---- one step ----

    def _step(self) -> None:
        """Reads a global batch and takes one optimizer step over it.

        The loss is a sum over masked tokens, divided by their number in the global batch: not a mean of means. A step
        without any has a loss of NaN and takes its gradient from the sentence pairs alone. The cosines to a teacher are
        divided by the number of tokens, in the same way.
        """
        start, device_start = time.perf_counter(), device_clock()
        stage, engine, progress = self.stage, self.engine, self.progress
        with record_function("data"):
            self.start_activity(f"reading the rows of step {progress.step + 1}")
            rows = self.reader.read(self.now)
            self.start_activity(f"step {progress.step + 1}")
            num_masked, num_sentences, num_tokens = rows.totals()
        # DeepSpeed averages over ranks and accumulation steps; the scales undo that.
        copies = stage.data_parallel * stage.accumulation
        mlm_scale, sentence_scale = copies / max(num_masked, 1), copies / max(num_sentences, 1)
        align_weight = stage.align_weight_at(self.now)
        scales = mlm_scale, sentence_scale, copies * align_weight / max(num_tokens, 1)

        lr = self.run.learning_rate(self.now)
        set_learning_rate(basic_optimizer(engine), lr)
        stages.begin_step(self)
        skipped_before = engine.skipped_steps
        sums, norm = update(self, rows.batches, scales, self._read_ahead)
        mlm_loss, mlm_correct, sentence_loss, sentence_correct, *cosines = sums.tolist()
        mlm_loss, mlm_accuracy = mean(mlm_loss, num_masked), mean(mlm_correct, num_masked)
        loss = mlm_loss + sentence_loss / max(num_sentences, 1)

        progress.position = rows.position
        progress.num_tokens += num_tokens
        progress.flops += training_flops(stage.config, stage.global_batch, stage.sequence, num_masked)
        progress.flops += teacher_flops(stage) if align_weight else 0
        progress.flops += stage.optimizer.chosen.step_flops(stage.config)
        seconds = self._agreed(time.perf_counter() - start)
        progress.train_seconds += seconds
        progress.device_seconds += device_clock() - device_start
        if engine.skipped_steps > skipped_before:  # neither the step count nor the schedule advances
            self.call("on_skip", loss, lambda: update(self, rows.batches, scales))
            return
        progress.step += 1
        result = StepResult(
            step=progress.step,
            stage=stage.name,
            loss=loss,
            mlm_loss=mlm_loss,
            mlm_accuracy=mlm_accuracy,
            sentence_accuracy=sentence_correct / num_sentences if num_sentences else None,
            lr=lr,
            grad_norm=gradient_norm_after_step(engine) if norm is None else norm,
            tokens=progress.num_tokens,
            flops=progress.flops,
            seconds=progress.train_seconds,
            tokens_per_second=num_tokens / seconds,
            alignment=cosines[0] / num_tokens if cosines else None,
        )
        with record_function("hooks"):
            self.call("on_step", result)
            if num_masked == 0:
                self.call("on_event", _nothing_masked(result))
        every = self.run.recipe.validation.every
        if every and progress.step % every == 0 and self.now < self.run.end:
            self.validate()

    def _read_ahead(self) -> None:
        """The rows of the next step, if it is one of this stage, while a GPU computes gradients."""
        stage, step = self.stage, self.progress.step + 1
        if not computes_on_gpu() or (self.run.unit == "steps" and step >= stage.end):
            return
        with record_function("data"):
            self.start_activity(f"reading the rows of step {step + 1}")
            self.reader.read_ahead(self.now + 1)
            self.start_activity(f"step {step}")

    def _agreed(self, seconds: float) -> float:
        """Rank 0's time where the run is measured in hours: all ranks have to change stage at the same step."""
        if self.run.unit == "steps":
            return seconds
        agreed = torch.tensor(seconds, dtype=torch.float64)
        dist.broadcast(agreed, src=0, group=host_group())
        return agreed.item()

    # ---- validation ----

    def validate(self) -> None:
        self.start_activity(f"validation at step {self.progress.step}")
        stage, num_rows = self.stage, self.run.recipe.validation.rows
        rows = self._validation_rows(stage, stage.sequence, num_rows, stage.objective)
        self.call("on_validation", evaluate(self.engine, rows))

    def probe(
        self, stage: ResolvedStage, sequence: int | None = None, objective: Objective | None = None
    ) -> list[Batch]:
        """This rank's part of a few validation rows, which are the same before and after a change, in any layout."""
        num_rows = min(self.run.recipe.validation.rows, PROBE_ROWS)
        return self._validation_rows(stage, sequence or stage.sequence, num_rows, objective or stage.objective)

    def flops_per_token(self, stage: ResolvedStage) -> float:
        """Training FLOPs of a stage per token of its rows."""
        return stage_flops(stage) / (stage.global_batch * stage.sequence)

    def _validation_rows(self, stage: ResolvedStage, sequence: int, num_rows: int, objective: Objective) -> list[Batch]:
        how = num_rows, stage.micro_batch, data_parallel_rank(stage), stage.data_parallel, self.progress.position.draw
        return validation_rows(self.corpus, sequence, self.run.recipe.data, *how, objective)


def _nothing_masked(result: StepResult) -> dict[str, Any]:
    advice = "look at the corpus and at the masking in data"
    message = f"step {result.step}: no token of its rows is masked, so its loss is NaN; {advice}"
    return {"event": "nothing_masked", "step": result.step, "stage": result.stage, "message": message}
