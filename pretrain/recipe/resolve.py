"""From a recipe to the stages of a run: shares become steps, shapes become configs, and all is checked together."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from growth.operators import shapes
from growth.operators.base import Operator
from growth.operators.prune import PruneNeurons
from model.config import BERT_VOCABULARY, BertConfig
from model.errors import UserError
from pretrain.engine.config_file import load_engine_file
from pretrain.recipe.exactness import check_exactness
from pretrain.recipe.load import explained
from pretrain.recipe.operators import read_operators
from pretrain.recipe.saved_states import check_kept, kept_names
from pretrain.recipe.schedule import LearningRate, Phase, StageRate
from pretrain.recipe.schema import Recipe, Restart, Stage
from pretrain.recipe.shares import counted, counted_steps, row_length, whole_model
from pretrain.recipe.stage_ends import check_ends, check_keys, rule_in_steps, rules_of
from pretrain.settings.values import Amount, Share
from pretrain.stage_rules.settings import GradientCorrelation, Until

Precision = Literal["fp32", "bf16", "fp16"]
Unit = Literal["steps", "seconds"]

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class ResolvedStage:
    index: int
    name: str
    start: float
    end: float
    """In ticks of the run's clock, as `Run.unit` says: the stage lasts while start <= now < end."""
    config: BertConfig
    sequence: int
    """Tokens in a row."""
    global_batch: int
    """Rows in a step, over all ranks and accumulation steps."""
    micro_batch: int
    """Rows that one rank computes at a time."""
    accumulation: int
    tensor_parallel: int
    sequence_parallel: bool
    data_parallel: int
    grow: tuple[Operator, ...]
    """The operators that lead here from the stage before, options and moment policies included."""
    shape: dict[str, Any]
    """The fields of the model that this stage asks for: what the operators are to reach."""
    deepspeed: dict[str, Any]
    """The DeepSpeed JSON as it stands in the file, but for what that leaves open."""
    zero_stage: int
    precision: Precision
    recompute: bool
    rewarm: float
    lr_scale: float
    restart: Restart | None
    """The schedule that begins here."""
    until: Until | None
    """What may end the stage before `end`, its intervals in steps."""
    split: GradientCorrelation | None
    keep: str | None

    @property
    def length(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Run:
    """A recipe resolved for one vocabulary and one number of ranks."""

    recipe: Recipe
    num_ranks: int
    unit: Unit
    """What the run's clock counts: optimizer steps, or seconds of training where the recipe gives a budget in hours."""
    stages: tuple[ResolvedStage, ...]
    learning_rate: LearningRate

    @property
    def end(self) -> float:
        return self.stages[-1].end

    @property
    def kept(self) -> list[str]:
        """Names under which states of this run are kept, beside the checkpoints of its steps."""
        return kept_names(self.stages)

    def moment(self, ticks: float) -> str:
        """A point or a length on the run's clock, to read: `1,200 steps`, or `2:05:00 h`."""
        if self.unit == "steps":
            return f"{ticks:,.0f} steps"
        minutes, seconds = divmod(round(ticks), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02} h"


def resolve(recipe: Recipe, corpus_vocab_size: int | None, num_ranks: int) -> Run:
    """Checks the whole recipe and works out every stage; UserError names the stage and what does not fit.

    `corpus_vocab_size` None plans without a corpus: the vocabulary is the recipe's own, or BERT's.
    """
    unit, starts = _timeline(recipe)
    check_keys(recipe.stages, unit)
    in_steps = partial(_in_steps, total=starts[-1], unit=unit)
    stages: list[ResolvedStage] = []
    sequence, batch, layout, engine_file = recipe.sequence, recipe.batch, recipe.layout, recipe.deepspeed
    config: BertConfig | None = None
    whole = whole_model(recipe.model)
    for index, stage in enumerate(recipe.stages):
        with _naming(stage):
            sequence = row_length(stage.sequence, recipe.sequence) or sequence
            batch = batch.model_copy(update=stage.batch.model_dump(exclude_none=True))
            layout = layout.model_copy(update=stage.layout.model_dump(exclude_none=True))
            engine_file = stage.deepspeed or engine_file
            shape = counted(stage.shape, whole)
            if config is None:
                grow, config = (), _first_shape(recipe, stage, {**whole, **shape}, corpus_vocab_size)
            else:
                operators = counted_steps(stage.grow, starts[-1] if unit == "steps" else None)
                grow, config = _next_shape(config, operators, shape)
            if sequence > config.max_positions:
                raise UserError(
                    f"sequence {sequence} is longer than model.max_positions {config.max_positions}; "
                    "lower it or raise max_positions"
                )
            config.check_tensor_parallel(layout.tensor_parallel)
            _check_quota(grow, config, layout.tensor_parallel)
            sequence_parallel = layout.sequence_parallel and layout.tensor_parallel > 1
            if sequence_parallel:
                _check_sequence_parallel(config, layout.tensor_parallel, sequence, stages)
            data_parallel = _data_parallel(layout.tensor_parallel, num_ranks)
            micro, accumulation = _micro_batches(batch.rows, batch.micro, data_parallel)
            deepspeed = load_engine_file(engine_file)
            check_exactness(deepspeed, recipe.precision, engine_file)
            if recipe.recompute and config.layer_drop:
                raise UserError("recompute true computes layers again, and layer_drop would draw others; leave one out")
            stages.append(
                ResolvedStage(
                    index=index,
                    name=stage.name,
                    start=starts[index],
                    end=starts[index + 1],
                    config=config,
                    sequence=sequence,
                    global_batch=batch.rows,
                    micro_batch=micro,
                    accumulation=accumulation,
                    tensor_parallel=layout.tensor_parallel,
                    sequence_parallel=sequence_parallel,
                    data_parallel=data_parallel,
                    grow=grow,
                    shape=shape,
                    deepspeed=deepspeed,
                    zero_stage=deepspeed["zero_optimization"]["stage"],
                    precision=recipe.precision,
                    recompute=recipe.recompute,
                    rewarm=_measure(stage.schedule.rewarm, starts[-1], unit, "schedule.rewarm"),
                    lr_scale=stage.schedule.lr_scale,
                    restart=stage.schedule.restart,
                    until=rules_of(recipe.stages, index, partial(in_steps, key="until")),
                    split=stage.split and rule_in_steps(stage.split, partial(in_steps, key="split")),
                    keep=stage.keep,
                )
            )
    check_ends(stages)
    check_kept(stages)
    rate = learning_rate(recipe, stages, unit)
    _check_phases(rate, stages, unit)
    return Run(recipe, num_ranks, unit, tuple(stages), rate)


@contextmanager
def _naming(stage: Stage) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"stage {stage.name}: {error}") from None


# --- steps ----------------------------------------------------------------------------------------------------------


def _measure(amount: float | Share, total: float, unit: Unit, key: str) -> float:
    """An amount in ticks of the run's clock: whole steps, or seconds."""
    if isinstance(amount, Share):
        ticks = amount.percent / 100 * total
        return round(ticks) if unit == "steps" else ticks
    if unit == "seconds" and amount:
        raise UserError(f"{key}: {amount} steps have no place in a run measured in hours; write a share such as 5%")
    return amount


def _in_steps(amount: Amount, total: float, unit: Unit, key: str) -> int:
    """Steps, which the rules that end a stage count in every run."""
    if isinstance(amount, Share) and unit == "seconds":
        raise UserError(
            f"{key}: {amount} of a run measured in hours is no number of steps; give every (and least, where it is a "
            "share) as a count, such as every: 100"
        )
    return int(_measure(amount, total, "steps", key))


def _timeline(recipe: Recipe) -> tuple[Unit, list[float]]:
    """The clock's unit, the first tick of each stage, and the end of the run.

    Shares are rounded on the running sum, so that no step is lost.
    """
    unit: Unit = "seconds" if recipe.hours else "steps"
    if recipe.hours and recipe.steps:
        raise UserError(f"steps {recipe.steps} and hours {recipe.hours:g} both measure the run; give one of them")
    names = [stage.name for stage in recipe.stages]
    for stage in recipe.stages:
        if names.count(stage.name) > 1:
            raise UserError(f"two stages are named {stage.name!r}; give each its own name")
        if (stage.steps if recipe.hours else stage.hours) is not None:
            wrong, right = ("steps", "hours") if recipe.hours else ("hours", "steps")
            raise UserError(f"stage {stage.name} is measured in {wrong}, the run in {right}; use {right} for both")

    amounts = [stage.hours if recipe.hours else stage.steps for stage in recipe.stages]
    total = recipe.hours or recipe.steps
    if total is None:
        if not all(isinstance(amount, int) for amount in amounts):
            raise UserError("steps is missing: give the run's total, or every stage a count of steps")
        total = sum(amounts)

    exact = [amount.percent / 100 * total if isinstance(amount, Share) else amount for amount in amounts]
    unsaid = [index for index, amount in enumerate(exact) if amount is None]
    if len(unsaid) > 1:
        raise UserError(
            f"stages {' and '.join(names[index] for index in unsaid)} do not say how long they are; "
            "only one may take what remains"
        )
    given = sum(amount for amount in exact if amount is not None)
    if unsaid:
        exact[unsaid[0]] = total - given
    elif abs(given - total) > (0.5 if unit == "steps" else 1e-9 * total):
        raise UserError(
            f"the stages add up to {given:g} {'hours' if recipe.hours else 'steps'}, the run has {total:g}; "
            "change one, or leave out one stage's length"
        )

    starts: list[float] = [0]
    running = 0.0
    for name, amount in zip(names, exact, strict=True):
        running += amount
        starts.append(round(running) if unit == "steps" else running * SECONDS_PER_HOUR)
        if starts[-1] <= starts[-2]:
            raise UserError(f"stage {name} has no time left ({amount:g} of {total:g}); give it some")
    return unit, starts


# --- shape ----------------------------------------------------------------------------------------------------------


def _first_shape(recipe: Recipe, stage: Stage, values: dict[str, Any], corpus_vocab_size: int | None) -> BertConfig:
    if stage.grow:
        raise UserError("the first stage has no stage before it to grow from; remove its grow")
    vocab_size = values.get("vocab_size", corpus_vocab_size)
    if corpus_vocab_size is not None and vocab_size != corpus_vocab_size:
        raise UserError(
            f"model.vocab_size {vocab_size} is not the corpus's {corpus_vocab_size} ({recipe.data.corpus}); "
            "remove it from the recipe, or prepare the corpus with that vocabulary"
        )
    values.setdefault("sentence_head", recipe.data.sentence_pairs != "none")
    if recipe.data.sentence_pairs != "none" and not values["sentence_head"]:
        raise UserError(f"data.sentence_pairs {recipe.data.sentence_pairs} needs model.sentence_head; leave that out")
    values["vocab_size"] = BERT_VOCABULARY if vocab_size is None else vocab_size
    with explained(BertConfig, section="model"):
        return BertConfig.model_validate(values)


def _next_shape(
    before: BertConfig, grow: Sequence[Mapping[str, Any]], shape: Mapping[str, Any]
) -> tuple[tuple[Operator, ...], BertConfig]:
    if "vocab_size" in shape:
        raise UserError("shape.vocab_size: the vocabulary belongs to the corpus and cannot change between stages")
    with explained(BertConfig, section="shape"):
        before.replace(**shape)
    operators = read_operators(grow, before, shape)
    return operators, shapes(before, operators, shape)[-1]


# --- layout and batch -----------------------------------------------------------------------------------------------


def _data_parallel(tensor_parallel: int, num_ranks: int) -> int:
    if num_ranks < 1:
        raise UserError(f"{num_ranks} processes cannot train; start at least one (--nproc)")
    if num_ranks % tensor_parallel:
        raise UserError(
            f"layout.tensor_parallel {tensor_parallel} does not divide the {num_ranks} processes; change one of them"
        )
    return num_ranks // tensor_parallel


def _micro_batches(rows: int, micro: int | None, data_parallel: int) -> tuple[int, int]:
    """(rows a rank computes at a time, how many times in a step)."""
    if rows % data_parallel:
        raise UserError(
            f"batch.global {rows} does not divide by the {data_parallel} data-parallel ranks; "
            f"choose a multiple of {data_parallel}"
        )
    per_rank = rows // data_parallel
    micro = micro or per_rank
    if per_rank % micro:
        raise UserError(
            f"batch.global {rows} over {data_parallel} data-parallel ranks is {per_rank} rows each, "
            f"which does not divide by batch.micro {micro}; choose a divisor of {per_rank}"
        )
    return micro, per_rank // micro


def _check_sequence_parallel(
    config: BertConfig, tensor_parallel: int, sequence: int, before: Sequence[ResolvedStage]
) -> None:
    if config.pool_window > 1:
        raise UserError(
            "layout.sequence_parallel divides rows whose length is known, and that of slots under pool_window "
            f"{config.pool_window} is each batch's own; leave one of them out"
        )
    # The loss just after a change of shape is that of rows as the stage before had them.
    lengths = {"sequence": sequence} | {f"sequence of stage {stage.name}": stage.sequence for stage in before[-1:]}
    for key, length in lengths.items():
        if length % tensor_parallel:
            raise UserError(
                f"{key} {length} does not divide over layout.tensor_parallel {tensor_parallel}, as sequence_parallel "
                f"asks; choose a multiple of {tensor_parallel}, or leave sequence_parallel out"
            )


def _check_quota(grow: Sequence[Operator], config: BertConfig, tensor_parallel: int) -> None:
    is_open = any(isinstance(operator, PruneNeurons) and operator.quota == "global" for operator in grow)
    if is_open and config.ffn_multiple % tensor_parallel:
        raise UserError(
            f"grow prune_neurons: quota global decides each layer's width, which layout.tensor_parallel "
            f"{tensor_parallel} has to divide; set model.ffn_multiple to a multiple of it"
        )


# --- schedule -------------------------------------------------------------------------------------------------------


def learning_rate(recipe: Recipe, stages: Sequence[ResolvedStage], unit: Unit) -> LearningRate:
    restarts = [
        (stage.start, stage.restart, f"stage {stage.name}: schedule.restart") for stage in stages if stage.restart
    ]
    starts = [(0, recipe.schedule, "schedule"), *restarts] if not restarts or restarts[0][0] else restarts
    ends = [start for start, *_ in starts[1:]] + [stages[-1].end]
    phases = []
    for (start, schedule, key), end in zip(starts, ends, strict=True):
        length = end - start
        warmup = _measure(schedule.warmup, length, unit, f"{key}.warmup")
        hold = _measure(schedule.hold, length, unit, f"{key}.hold")
        peak = getattr(schedule, "lr", None) or recipe.optimizer.lr
        phases.append(Phase(start, length, peak, warmup, hold, schedule.shape, schedule.end, schedule.power))
    return LearningRate(tuple(phases), tuple(StageRate(stage.start, stage.rewarm, stage.lr_scale) for stage in stages))


def _check_phases(rate: LearningRate, stages: Sequence[ResolvedStage], unit: Unit) -> None:
    for phase in rate.phases:
        if phase.warmup + phase.hold > phase.length:
            names = [stage.name for stage in stages if stage.restart is not None and stage.start == phase.start]
            where = f"stage {names[0]}: schedule.restart" if names else "schedule"
            raise UserError(
                f"{where}: warm-up ({phase.warmup:g} {unit}) and hold ({phase.hold:g}) exceed the {phase.length:g} "
                "they are part of"
            )
