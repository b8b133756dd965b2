"""The training loop. Stages and steps are here; everything that happens between steps hangs on hooks."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine
from torch.profiler import record_function

from growth.change import ShapeChange
from growth.operators import shape_change
from growth.operators.base import Correlation, Inputs
from growth.state import Fetch, TrainingState, fresh_state
from model.batch import Batch
from model.config import BertConfig
from model.parallel.layout import ParallelLayout
from pretrain.checkpoint import find_checkpoint, load_checkpoint
from pretrain.checkpoint.progress import Progress
from pretrain.cost.flops import training_flops
from pretrain.data import Corpus, TrainingData
from pretrain.engine.build import PRECISIONS, EngineSettings
from pretrain.engine.compilation import compiles
from pretrain.engine.correlation import gradient_correlation
from pretrain.engine.distributed import data_parallel_sum, device, device_clock
from pretrain.engine.exchange import fetch_from
from pretrain.engine.fast_fp32 import fast_fp32
from pretrain.engine.host_memory import return_freed_memory
from pretrain.engine.move import move, restore_loss_scaler, start_engine
from pretrain.engine.norm import gradient_norm_before_step, skip_step
from pretrain.engine.zero import basic_optimizer, destroy
from pretrain.optim import group_rules, make_optimizer, moment_rule, set_learning_rate
from pretrain.recipe import ResolvedStage, Run
from pretrain.recipe.decisions import Decision, decided
from pretrain.training.evaluation import Evaluation, evaluate, validation_rows
from pretrain.training.hooks.base import GrowthEvent, Hook, StepResult
from pretrain.training.hooks.watchdog import Phase


class Trainer:
    """Trains a run from a logical state. Every rank makes one and calls `fit` once."""

    def __init__(
        self,
        run: Run,
        corpus: Corpus,
        hooks: Sequence[Hook],
        state: TrainingState | None = None,
        progress: Progress | None = None,
        checkpoints: Path | None = None,
    ):
        """`checkpoints`: the folder under which the run keeps states by name."""
        self.run = run
        self.corpus = corpus
        self.hooks = hooks
        self.progress = progress or Progress()
        self.checkpoints = checkpoints
        self._start_state = state or fresh_state(
            run.stages[0].config, run.recipe.seed, dist.get_rank(), dist.get_world_size()
        )
        self.engine: DeepSpeedEngine | None = None
        self.stage: ResolvedStage
        self.data: TrainingData
        self.phase = Phase(0, "start", time.monotonic())

    @fast_fp32()
    def fit(self) -> None:
        """All steps that are left, stage by stage. A run resumed between two stages begins with the change of shape."""
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

    def at(self, phase: str) -> None:
        """Says what this rank does from now on."""
        self.phase = Phase(self.phase.number + 1, phase, time.monotonic())

    @property
    def now(self) -> float:
        """The run's clock: optimizer steps taken, or seconds trained where the recipe gives a budget in hours."""
        return self.progress.step if self.run.unit == "steps" else self.progress.train_seconds

    def decide(self, decision: Decision) -> None:
        """Changes the stages of the run from here on. The same on all ranks, which saves it with the progress."""
        self.progress.decisions.append(decision)
        self.run = decided(self.run, [decision])
        self.stage = self.run.stages[self.stage.index]

    def close(self) -> None:
        """Frees the engine."""
        if self.engine is not None:
            destroy(self._release_engine())

    # ---- one step ----

    def _step(self) -> None:
        """Reads a global batch and takes one optimizer step over it.

        The loss is a sum over masked tokens, divided by their number in the global batch: not a mean of means.
        """
        start, device_start = time.perf_counter(), device_clock()
        stage, engine, progress = self.stage, self.engine, self.progress
        layout = ParallelLayout.current()
        rank = self.data_parallel_rank
        with record_function("data"):
            self.at(f"reading the rows of step {progress.step + 1}")
            batches = self.data.next(stage.global_batch, stage.micro_batch, rank, layout.data_parallel)
            self.at(f"step {progress.step + 1}")
            num_masked, num_sentences, num_tokens = self._count(batches)
        # DeepSpeed averages over ranks and accumulation steps; undone here.
        copies = layout.data_parallel * stage.accumulation
        mlm_scale, sentence_scale = copies / num_masked, copies / max(num_sentences, 1)

        lr = self.run.learning_rate(self.now)
        set_learning_rate(basic_optimizer(engine), lr)
        self._tell_progress()
        skipped_before = engine.skipped_steps
        sums, norm = self._update(batches, mlm_scale, sentence_scale)
        mlm_loss, mlm_correct, sentence_loss, sentence_correct = data_parallel_sum(sums).tolist()
        loss = mlm_loss / num_masked + sentence_loss / max(num_sentences, 1)

        progress.position = self.data.position
        progress.num_tokens += num_tokens
        progress.flops += training_flops(stage.config, stage.global_batch, stage.sequence, num_masked)
        seconds = self._agreed(time.perf_counter() - start)
        progress.train_seconds += seconds
        progress.device_seconds += device_clock() - device_start
        if engine.skipped_steps > skipped_before:  # neither the step nor the schedule advances
            self.call("on_skip", loss, lambda: self._update(batches, mlm_scale, sentence_scale))
            return
        progress.step += 1
        result = StepResult(
            step=progress.step,
            stage=stage.name,
            loss=loss,
            mlm_loss=mlm_loss / num_masked,
            mlm_accuracy=mlm_correct / num_masked,
            sentence_accuracy=sentence_correct / num_sentences if num_sentences else None,
            lr=lr,
            grad_norm=float(engine.get_global_grad_norm()) if norm is None else norm,
            tokens=progress.num_tokens,
            flops=progress.flops,
            seconds=progress.train_seconds,
            tokens_per_second=num_tokens / seconds,
        )
        with record_function("hooks"):
            self.call("on_step", result)
        every = self.run.recipe.validation.every
        if every and progress.step % every == 0 and self.now < self.run.end:
            self.validate()

    def _update(
        self, batches: Sequence[Batch], mlm_scale: float, sentence_scale: float
    ) -> tuple[torch.Tensor, float | None]:
        """Forward and backward over this rank's micro-batches, and the optimizer's step if the gradient is finite.

        Gives the sums of the losses and of what was right, and the gradient's norm where DeepSpeed does not report it.
        """
        engine = self.engine
        sums = torch.zeros(4, dtype=torch.float64, device=device())
        for index, batch in enumerate(batches):
            self._seed_dropout(index)
            with record_function("forward"):
                output = engine(batch.to(device()), mlm_scale, sentence_scale)
            with record_function("backward"):
                engine.backward(output.loss)
            with record_function("optimizer"):
                if index == len(batches) - 1:
                    norm = gradient_norm_before_step(engine)
                    if norm is not None and not math.isfinite(norm):
                        skip_step(engine)
                engine.step()
            sums += torch.stack([value.detach().double() for value in output[1:]])
        return sums, norm

    def _count(self, batches: Sequence[Batch]) -> tuple[int, int, int]:
        """Masked tokens, sentence pairs and tokens of the global batch."""
        counts = torch.tensor(
            [
                sum(len(batch.masked_ids) for batch in batches),
                sum(0 if batch.sentence_labels is None else len(batch.sentence_labels) for batch in batches),
                sum(batch.num_tokens for batch in batches),
            ],
            device=device(),
        )
        return tuple(data_parallel_sum(counts).tolist())

    def _agreed(self, seconds: float) -> float:
        """Rank 0's time, where all ranks go by the clock: they have to change stage at the same step."""
        if self.run.unit == "steps":
            return seconds
        agreed = torch.tensor(seconds, dtype=torch.float64, device=device())
        dist.broadcast(agreed, src=0)
        return agreed.item()

    def _tell_progress(self) -> None:
        """To the parts of the model that change with it: layer dropping, and units that fade in."""
        step = self.progress.step
        self.engine.module.begin_step(step, step - self.progress.masked_since, self.run.recipe.seed)

    def _seed_dropout(self, micro_batch: int) -> None:
        """Dropout is a function of (seed, step, micro-batch, data-parallel rank): a resumed run has nothing to restore.

        Tensor-parallel ranks share the seed; where their activations differ the model takes its own stream.
        """
        place = (self.run.recipe.seed, self.progress.step, micro_batch, self.data_parallel_rank)
        torch.manual_seed(hash(place) & (2**62 - 1))

    @property
    def data_parallel_rank(self) -> int:
        return dist.get_rank() // self.stage.tensor_parallel

    # ---- stages ----

    def _enter(self, stage: ResolvedStage) -> None:
        """Brings the engine into a stage: built from the start state, moved from the stage before, or left as it is."""
        previous, self.stage = getattr(self, "stage", None), stage
        self.at(f"entry into stage {stage.name}")
        if self.engine is None:
            self._start(stage)
        elif _needs_move(previous, stage):
            self._move(previous, stage)
            stage = self.stage
        return_freed_memory()
        self.progress.stage = stage.index
        self.data = TrainingData(
            self.corpus,
            "train",
            self.run.recipe.seed,
            stage.sequence,
            self.run.recipe.data.masking,
            self.progress.position,
            self.run.recipe.data.sampling,
            stage.config.pool_window,
        )

    def _start(self, stage: ResolvedStage) -> None:
        state, self._start_state = self._start_state, None
        self.engine = start_engine(state, self._settings(stage))
        restore_loss_scaler(self.engine, self.progress.loss_scaler)
        self._tell_progress()

    def _move(self, previous: ResolvedStage, stage: ResolvedStage) -> None:
        probe = self.probe(previous)
        before = evaluate(self.engine.module, self.engine, probe)
        start = time.perf_counter()
        self.engine, times = move(
            self._release_engine(),
            self._settings(stage),
            lambda fetch: self._make_change(previous.config, stage, fetch),
        )
        seconds = time.perf_counter() - start
        stage = self._settle(self.engine.module.config)
        if stage.config.masked != previous.config.masked:
            self.progress.masked_since = self.progress.step
        self._tell_progress()
        after = evaluate(self.engine.module, self.engine, self.probe(stage, previous.sequence))
        event = GrowthEvent(
            operator="+".join(operator.name for operator in stage.grow) or "identity",
            step=self.progress.step,
            stage=stage.name,
            loss_before=before.loss,
            loss_after=after.loss,
            seconds=seconds,
            moments="+".join(operator.moments for operator in stage.grow) or "transform",
            parts=vars(times),
        )
        self.call("on_growth", event)

    def _settle(self, reached: BertConfig) -> ResolvedStage:
        """The stage with the shape that its operators led to, where they left some of it to the state."""
        planned = self.stage.config
        shape = {name: value for name, value in reached if value != getattr(planned, name)}
        if shape:
            decision = Decision(self.stage.index, shape=shape)
            message = f"step {self.progress.step:,}: stage {self.stage.name} has {decision.shape_in_words}"
            place = {"step": self.progress.step, "stage": self.stage.name}
            self.call("on_event", {"event": "decision", **place, **shape, "message": message})
            self.decide(decision)
        assert self.stage.config == reached
        return self.stage

    def _release_engine(self) -> DeepSpeedEngine:
        """Hands the engine over without keeping it: a reference held here would keep its memory."""
        engine, self.engine = self.engine, None
        return engine

    def _make_change(self, source: BertConfig, stage: ResolvedStage, fetch: Fetch) -> ShapeChange:
        def correlation(config: BertConfig, shared: BertConfig, state: Fetch) -> Correlation:
            layout = self.layout(stage)
            layout.install()
            precision = PRECISIONS[stage.precision]
            measured = gradient_correlation(config, state, layout, precision, self.probe(stage), shared)
            event = {"event": "gradient_correlation", "step": self.progress.step, "stage": stage.name}
            self.call("on_event", {**event, "values": measured})
            return measured

        def saved(name: str) -> tuple[BertConfig, Fetch]:
            path = self.checkpoints / name if name in self.run.kept and self.checkpoints else Path(name)
            state, _ = load_checkpoint(find_checkpoint(path))
            return state.config, fetch_from(state)

        moments = moment_rule(self.run.recipe.optimizer)
        return shape_change(source, stage.grow, stage.shape, Inputs(fetch, correlation, saved, moments))

    @staticmethod
    def layout(stage: ResolvedStage) -> ParallelLayout:
        return ParallelLayout(stage.tensor_parallel, stage.data_parallel)

    def _settings(self, stage: ResolvedStage) -> EngineSettings:
        recipe = self.run.recipe
        return EngineSettings(
            layout=self.layout(stage),
            sequence_parallel=stage.sequence_parallel,
            micro_batch=stage.micro_batch,
            accumulation=stage.accumulation,
            precision=stage.precision,
            make_optimizer=make_optimizer(recipe.optimizer),
            groups=group_rules(recipe.optimizer),
            grad_clip=recipe.optimizer.grad_clip,
            recompute=recipe.recompute,
            compile=compiles(recipe.compile, device()),
            deepspeed=stage.deepspeed,
        )

    # ---- validation ----

    def validate(self) -> Evaluation:
        self.at(f"validation at step {self.progress.step}")
        rows = self.run.recipe.validation.rows
        evaluation = evaluate(self.engine.module, self.engine, self._rows(self.stage, self.stage.sequence, rows))
        self.call("on_validation", evaluation)
        return evaluation

    def probe(self, stage: ResolvedStage, sequence: int | None = None) -> list[Batch]:
        """A few validation rows, the same before and after a change, whatever the layout."""
        return self._rows(stage, sequence or stage.sequence, min(self.run.recipe.validation.rows, 64))

    def _rows(self, stage: ResolvedStage, sequence: int, num_rows: int) -> list[Batch]:
        rank, num_ranks = dist.get_rank() // stage.tensor_parallel, stage.data_parallel
        data = self.run.recipe.data
        return validation_rows(self.corpus, sequence, data, num_rows, stage.micro_batch, rank, num_ranks)

    def call(self, event: str, *arguments) -> None:
        """Calls one of the places of `Hook` on every hook, in their order."""
        for hook in self.hooks:
            getattr(hook, event)(self, *arguments)


def _needs_move(previous: ResolvedStage, stage: ResolvedStage) -> bool:
    """Whether anything changed that an engine is built for; length, rows and the learning rate are not."""
    fields = ("config", "tensor_parallel", "sequence_parallel", "micro_batch", "accumulation", "deepspeed", "grow")
    return any(getattr(previous, field) != getattr(stage, field) for field in fields if field != "grow" or stage.grow)
