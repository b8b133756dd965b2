"""From a recipe to a run: shares become steps, shapes become configs, and everything is checked together."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from growth.operators.base import Operator
from model.config import BertConfig
from model.errors import UserError
from pretrain.engine.config_file import load_engine_file
from pretrain.recipe.align import alignment_of
from pretrain.recipe.checks.alignment import check_alignment, check_teacher
from pretrain.recipe.checks.clipping import check_clipping
from pretrain.recipe.checks.exactness import check_exactness
from pretrain.recipe.checks.fp8 import check_fp8
from pretrain.recipe.checks.layout import check_layout
from pretrain.recipe.checks.new_units import check_new_units
from pretrain.recipe.checks.objective import check_objective
from pretrain.recipe.checks.rows import check_rows
from pretrain.recipe.checks.saved_states import check_shapes_of_saved_states
from pretrain.recipe.checks.schedule import check_schedule
from pretrain.recipe.checks.stage_rules import check_ends, check_keys
from pretrain.recipe.inherited import Inherited
from pretrain.recipe.layout import data_parallel_size, micro_batches
from pretrain.recipe.learning_rate import learning_rate
from pretrain.recipe.precision import with_precision
from pretrain.recipe.run import ResolvedStage, Run
from pretrain.recipe.schema import NewUnitRate, Precision, Recipe, Stage
from pretrain.recipe.shapes import first_shape, next_shape
from pretrain.recipe.shares import counted_steps, whole_model
from pretrain.recipe.teachers import with_kept_teachers
from pretrain.recipe.timeline import Timeline, timeline
from pretrain.recipe.until import until_in_steps
from pretrain.settings.values import Share


def resolve(recipe: Recipe, corpus_vocab_size: int | None, num_ranks: int) -> Run:
    """Works out every stage and checks the whole recipe. Raises UserError naming the stage and what does not fit.

    `corpus_vocab_size` None plans without a corpus: the vocabulary is the recipe's, or the preset's. `precision: auto`
    becomes this machine's.
    """
    if recipe.start_with == "state" and recipe.start is None:
        raise UserError("start_with state takes what start names, and there is no start; name a run or a checkpoint")
    recipe = with_precision(recipe)
    clock = timeline(recipe)
    check_keys(recipe.stages)
    stages: list[ResolvedStage] = []
    inherited = Inherited.of_run(recipe)
    for index, stage in enumerate(recipe.stages):
        with _naming(stage):
            inherited = inherited.for_stage(stage, recipe)
            before = stages[-1] if stages else None
            resolved = _resolve_stage(recipe, index, inherited, before, clock, corpus_vocab_size, num_ranks)
            check_objective(stage, resolved, recipe.data, clock.unit)
            _check_stage(resolved, before, inherited.engine_file, recipe)
            stages.append(resolved)
    stages = _with_teachers(stages, recipe)
    run = Run(recipe, num_ranks, clock.unit, tuple(stages), learning_rate(recipe, stages, clock.unit))
    check_ends(run)
    check_shapes_of_saved_states(run)
    check_schedule(run)
    return run


def _resolve_stage(
    recipe: Recipe,
    index: int,
    inherited: Inherited,
    before: ResolvedStage | None,
    clock: Timeline,
    corpus_vocab_size: int | None,
    num_ranks: int,
) -> ResolvedStage:
    stage = recipe.stages[index]
    start, end = clock.span(index)
    whole = whole_model(recipe.model)
    shape = stage.shape.counted(whole)
    grow: tuple[Operator, ...] = ()
    if before is None:
        config = first_shape(recipe, stage, {**whole, **shape}, corpus_vocab_size)
    else:
        operators = counted_steps(stage.grow, clock.end if clock.unit == "steps" else None)
        grow, config = next_shape(before.config, operators, shape)
    layout, batch = inherited.layout, inherited.batch
    data_parallel = data_parallel_size(layout.tensor_parallel, num_ranks)
    micro_batch, accumulation = micro_batches(batch, data_parallel, at_most=recipe.faults.min_nodes is not None)
    deepspeed = load_engine_file(inherited.engine_file)
    return ResolvedStage(
        index=index,
        name_in_recipe=stage.name,
        start=start,
        end=end,
        config=config,
        objective=inherited.objective,
        mask_rate=inherited.mask_rate,
        sentence_objective=inherited.sentence_objective,
        sequence=inherited.sequence,
        global_batch=batch.rows,
        micro_batch=micro_batch,
        accumulation=accumulation,
        tensor_parallel=layout.tensor_parallel,
        sequence_parallel=layout.sequence_parallel and layout.tensor_parallel > 1,
        data_parallel=data_parallel,
        grow=grow,
        shape=shape,
        deepspeed=deepspeed,
        zero_stage=deepspeed["zero_optimization"]["stage"],
        precision=_chosen(recipe),
        optimizer=inherited.optimizer,
        recompute=recipe.recompute,
        rewarm=clock.ticks(stage.schedule.rewarm, "schedule.rewarm"),
        lr_scale=stage.schedule.lr_scale,
        new_unit_rate=_in_steps(stage.schedule.new_units, clock),
        restart=stage.schedule.restart,
        until=until_in_steps(recipe.stages, index, clock),
        split=stage.split and stage.split.in_steps(partial(clock.steps, key="split")),
        keep=stage.keep,
        align=alignment_of(stage.align, before.align if before else None, clock.span(index), clock.ticks),
    )


def _in_steps(rate: NewUnitRate, clock: Timeline) -> NewUnitRate:
    if isinstance(rate.steps, Share) and clock.unit == "seconds":
        raise UserError(
            f"schedule.new_units.steps: {rate.steps} is a share, which a run measured in hours cannot turn into steps; "
            "give a count"
        )
    return rate.model_copy(update={"steps": clock.steps(rate.steps, "schedule.new_units.steps")})


def _chosen(recipe: Recipe) -> Precision:
    assert recipe.precision != "auto"
    return recipe.precision


def _check_stage(stage: ResolvedStage, before: ResolvedStage | None, engine_file: str, recipe: Recipe) -> None:
    config: BertConfig = stage.config
    check_rows(recipe.data, stage.sequence)
    if stage.sequence > config.max_positions:
        raise UserError(
            f"sequence {stage.sequence} is longer than model.max_positions {config.max_positions}; "
            "lower it or raise max_positions"
        )
    for operator in stage.grow[:-1]:
        if operator.learning_steps:
            raise UserError(
                f"grow: {operator.name} learns its maps on the rows of this stage, so it has to come last; put it "
                "behind the other operators, or give it steps: 0"
            )
    check_layout(stage, before)
    check_new_units(stage)
    check_alignment(stage)
    check_exactness(stage.deepspeed, stage.precision, engine_file)
    check_clipping(stage, recipe.faults)
    if recipe.fp8:
        check_fp8(stage)
    for setting, reason in config.refused_with().items():
        if getattr(stage, setting):
            raise UserError(reason)


def _with_teachers(stages: list[ResolvedStage], recipe: Recipe) -> list[ResolvedStage]:
    """With the shapes of teachers that earlier stages keep."""
    known = with_kept_teachers(stages)
    for asked, stage in zip(recipe.stages, known, strict=True):
        if stage.align and stage.align.config:
            with _naming(asked):
                check_teacher(stage, stage.align.config, recipe.data)
    return list(known)


@contextmanager
def _naming(stage: Stage) -> Iterator[None]:
    """Inside, a UserError is prefixed with the name of the stage."""
    try:
        yield
    except UserError as error:
        raise UserError(f"stage {stage.name}: {error}") from None
