"""How a run enters a stage: with a new engine at the start, later with the engine of the stage before, moved."""

import time
from functools import partial
from pathlib import Path

from deepspeed.runtime.engine import DeepSpeedEngine

from growth.carry import carried_over
from growth.change import ShapeChange
from growth.new_units import NewUnits
from growth.operators import shape_change
from growth.operators.base import Correlation
from growth.operators.multilevel import at_depth
from growth.operators.width import changed_widths
from growth.partial_shape import PartialShape
from growth.state import TrainingState
from model.config import BertConfig
from pretrain.checkpoint import find_checkpoint, load_checkpoint
from pretrain.checkpoint.progress import Decision
from pretrain.engine.agreement import read_once
from pretrain.engine.build import PRECISIONS, EngineSettings
from pretrain.engine.compilation import compiles
from pretrain.engine.distributed import device
from pretrain.engine.move import move, restore_loss_scaler, start_engine
from pretrain.engine.new_units import mark_new_units, train_new_units
from pretrain.engine.zero import destroy
from pretrain.recipe import Recipe, ResolvedStage
from pretrain.training.attention import choose_attention_kernel
from pretrain.training.evaluation import evaluate
from pretrain.training.events import GrowthEvent, TrainerView
from pretrain.training.growth_inputs import Probe, growth_inputs
from pretrain.training.learning import learn
from pretrain.training.objectives import losses, report_change, report_heads
from pretrain.training.place import layout_of
from pretrain.training.teacher import provide_teacher


def start(trainer: TrainerView, state: TrainingState) -> None:
    """Builds the first engine of this process, for the trainer's stage. Collective."""
    choose_attention_kernel(trainer)
    trainer.engine = start_engine(state, _settings(trainer))
    restore_loss_scaler(trainer.engine, trainer.progress.loss_scaler)
    _mark_new_units(trainer)
    begin_step(trainer)


def move_on(trainer: TrainerView, previous: ResolvedStage, checkpoints: Path | None) -> None:
    """From the stage `previous` to the trainer's: moves the engine, where they need different ones. Collective.

    `checkpoints` is the folder of the states that this run has saved under a name.
    """
    other_objective = previous.objective != trainer.stage.objective
    before = losses(trainer, previous, previous.sequence) if other_objective else {}
    if trainer.stage.needs_move(previous):
        _move(trainer, previous, checkpoints)
    if other_objective:
        report_change(trainer, previous, before, losses(trainer, trainer.stage, previous.sequence))


def _move(trainer: TrainerView, previous: ResolvedStage, checkpoints: Path | None) -> None:
    before = evaluate(trainer.engine, trainer.probe(previous))
    started = time.perf_counter()
    trainer.engine, times = move(
        release_engine(trainer),
        _settings(trainer),
        lambda state: _make_change(trainer, previous, checkpoints, state),
    )
    seconds = time.perf_counter() - started
    _settle(trainer, trainer.engine.module.config)
    stage, progress = trainer.stage, trainer.progress
    progress.growth_seconds += seconds
    if stage.config.restarts_fading(previous.config):
        progress.masked_since = progress.step
    progress.new_units = None
    if stage.starts_new_units:
        as_deep = at_depth(previous.config, stage.config.layers)
        progress.new_units = NewUnits.between(changed_widths(as_deep, stage.config), progress.step)
    _mark_new_units(trainer)
    begin_step(trainer)
    after = evaluate(trainer.engine, trainer.probe(stage, previous.sequence, previous.objective))
    event = GrowthEvent(
        operator="+".join(_names(previous, stage)) or "identity",
        step=progress.step,
        stage=stage.name,
        loss_before=before.loss,
        loss_after=after.loss,
        seconds=seconds,
        moments="+".join(operator.moments for operator in stage.grow) or "transform",
        parts=vars(times),
    )
    trainer.call("on_growth", event)
    report_heads(trainer, previous, before, after)


def _names(previous: ResolvedStage, stage: ResolvedStage) -> list[str]:
    """Of the operators, and of a change of optimizer: `adamw_to_muon`."""
    names = [operator.name for operator in stage.grow]
    if stage.has_other_optimizer(previous):
        names.append(f"{previous.optimizer.name}_to_{stage.optimizer.name}")
    return names


def begin_step(trainer: TrainerView) -> None:
    """Tells what changes with progress where it is: layer dropping, units that fade in, units that began without state,
    a teacher. Collective where one is opened."""
    provide_teacher(trainer)
    step, new = trainer.progress.step, trainer.progress.new_units
    if new is not None:
        train_new_units(trainer.engine, step - new.since, trainer.stage.new_unit_rate.at(step - new.since))
    trainer.engine.module.begin_step(step, step - trainer.progress.masked_since, trainer.run.recipe.seed)


def _mark_new_units(trainer: TrainerView) -> None:
    if trainer.progress.new_units is not None:
        mark_new_units(trainer.engine, trainer.progress.new_units)


def _settings(trainer: TrainerView) -> EngineSettings:
    progress = trainer.progress
    return engine_settings(trainer.run.recipe, trainer.stage, progress.attention_kernel, progress.kernel_for_runs)


def engine_settings(
    recipe: Recipe, stage: ResolvedStage, attention_kernel: str | None = None, kernel_for_runs: str | None = None
) -> EngineSettings:
    return EngineSettings(
        layout=layout_of(stage),
        sequence_parallel=stage.sequence_parallel,
        micro_batch=stage.micro_batch,
        accumulation=stage.accumulation,
        precision=stage.precision,
        make_optimizer=stage.optimizer.chosen.make,
        groups=stage.optimizer.chosen.group_rules,
        grad_clip=stage.optimizer.grad_clip,
        clip_bucket_mb=stage.optimizer.clip_bucket_mb,
        recompute=recipe.recompute,
        attention_kernel=attention_kernel,
        kernel_for_runs=kernel_for_runs,
        compile=compiles(recipe.compile, device()),
        fp8=recipe.fp8,
        deepspeed=stage.deepspeed,
    )


def close_engine(trainer: TrainerView) -> None:
    """Frees the engine, if there is one."""
    if trainer.engine is not None:
        destroy(release_engine(trainer))


def release_engine(trainer: TrainerView) -> DeepSpeedEngine:
    """Hands the engine over. The trainer keeps no reference, which would keep the engine's memory."""
    engine, trainer.engine = trainer.engine, None
    return engine


def _make_change(
    trainer: TrainerView, previous: ResolvedStage, checkpoints: Path | None, state: TrainingState
) -> ShapeChange:
    """The operators of the trainer's stage, as one change of `state`; then its optimizer, if that is another."""
    stage, run, progress = trainer.stage, trainer.run, trainer.progress
    before, after = previous.optimizer.chosen, stage.optimizer.chosen

    def open_probe() -> Probe:
        return Probe(trainer.probe(stage), layout_of(stage), PRECISIONS[stage.precision])

    def open_saved(name: str) -> TrainingState:
        path = checkpoints / name if name in run.saved_states and checkpoints else Path(name)
        return load_checkpoint(read_once(lambda: find_checkpoint(path)))[0]

    def report(correlation: Correlation) -> None:
        event = {"event": "gradient_correlation", "step": trainer.progress.step, "stage": stage.name}
        trainer.call("on_event", {**event, "values": correlation})

    inputs = growth_inputs(
        state, before.moment_rule, open_probe, open_saved, report, run.recipe.seed, partial(learn, trainer)
    )
    change = shape_change(previous.config, stage.grow, stage.shape, inputs)
    if progress.new_units is not None:
        change = progress.new_units.settled(previous.config, progress.step, before.decay_rates).then(change)
    return change if before == after else carried_over(change, before.averages, after.averages)


def _settle(trainer: TrainerView, reached: BertConfig) -> None:
    """Gives the stage the shape that its operators reached, where they left part of it to the state."""
    stage = trainer.stage
    shape = PartialShape({name: value for name, value in reached if value != getattr(stage.config, name)})
    if shape:
        decision = Decision(stage.index, shape=shape)
        message = f"step {trainer.progress.step:,}: stage {stage.name} has {decision.shape_in_words}"
        place = {"step": trainer.progress.step, "stage": stage.name}
        trainer.call("on_event", {"event": "decision", **place, **shape, "message": message})
        trainer.decide(decision)
    assert trainer.stage.config == reached
