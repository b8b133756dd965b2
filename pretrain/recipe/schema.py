"""The keys of a recipe: types, defaults and meanings. `load.py` reads a recipe, `resolve.py` checks it as a whole."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from model.errors import UserError
from model.registry import takes
from model.shape import Shape as ShapeOfModel
from pretrain.data import Masking, Sampling
from pretrain.data.objective import Objective
from pretrain.optim.options import OptimizerOptions
from pretrain.optim.section import Optimizer
from pretrain.recipe.align import Align
from pretrain.recipe.schedule import Shape
from pretrain.recipe.shape_request import ShapeRequest
from pretrain.settings.values import Amount, Hours, Number, Positive, PositiveAmount, Section
from pretrain.stage_rules.base import StageRule
from pretrain.stage_rules.split import Split
from pretrain.stage_rules.until import Until

Precision = Literal["fp32", "bf16", "fp16"]
PrecisionOrAuto = Literal["auto", "fp32", "bf16", "fp16"]
AttentionKernel = Literal["auto", "trial", "flash-attn-3", "flash-attn", "varlen", "products", "fused", "cudnn"]


class FromCorpus(Section):
    corpus: str
    """Folder that `prepare` wrote, or a YAML file that mixes several corpora: a line `folder: weight` for each."""


class Data(Sampling, Masking, FromCorpus):
    """Its keys come in the order from the last base to the first."""

    @property
    def masking(self) -> Masking:
        return self.only(Masking)

    @property
    def sampling(self) -> Sampling:
        return self.only(Sampling)


class Schedule(Section):
    """The learning rate: warmup to the peak, an optional hold, then decay.

    Shares are of the steps that the schedule covers: the whole run, or the part up to a restart.
    """

    shape: Shape = "linear"
    """Shape of the decay from the peak to the end. `polynomial` has the exponent `power`; `sqrt` is 1 minus the square
    root of the progress, which falls fast at first (Hägele et al. 2024, ModernBERT); `constant` never decays."""
    warmup: Amount = 0
    """Steps of linear warmup to the peak; the first of N has 1/N of it. Use a few percent of the run; more for large
    batches or post-LN."""
    hold: Amount = 0
    """Steps at the peak between warmup and decay. The LANS paper uses this; otherwise leave it at 0."""
    decay: Amount | None = None
    """Steps of the decay, at the end of the schedule; before it the rate stays at its peak (WSD: warmup, stable,
    decay). By default the decay begins after warmup and `hold`, of which this takes the place."""
    end: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Learning rate at the end, as a fraction of the peak."""
    power: Annotated[Number, Field(gt=0)] = 1.0
    """Exponent of the polynomial decay. 1 is linear; above 1 falls faster at first. Other shapes ignore it."""


class Restart(Schedule):
    """A new schedule from this stage to the next restart or the end (two-phase BERT)."""

    lr: Annotated[Number, Field(gt=0)] | None = None
    """Peak learning rate of the new schedule. Defaults to `optimizer.lr`. If a later stage brings an
    optimizer with an `lr` of its own, its peak is that `lr` times this over the recipe's `optimizer.lr`."""


class NewUnitRate(Section):
    """The learning rate of units that begin without state (`moments: new_units` of an operator)."""

    lr_scale: Annotated[Number, Field(gt=0)] = 1.0
    """Learning rate of new units just after the change, as a multiple of that of the others, to which it then falls in
    a line. SPARKLING takes 1.3 (2602.02472)."""
    steps: Amount = 0
    """Steps until they have the learning rate of the others."""

    def at(self, taken: int) -> float:
        """The multiple, after some steps."""
        assert isinstance(self.steps, int), "a share of the run"
        return 1 + (self.lr_scale - 1) * (1 - taken / self.steps) if taken < self.steps else 1.0


class StageSchedule(Section):
    rewarm: Amount = 0
    """Steps to climb back to the schedule after this stage begins; the first of N has 1/N of it. Use it if the loss
    jumps after growing, or if the operators reset the optimizer."""
    lr_scale: Annotated[Number, Field(gt=0)] = 1.0
    """Multiply the learning rate by this factor during the stage."""
    new_units: NewUnitRate = NewUnitRate()
    restart: Restart | None = None


class Batch(Section):
    rows: Annotated[Positive, Field(alias="global")]
    """Global batch: rows (sequences) per step, over all ranks and gradient accumulation steps. Must be a multiple of
    the data-parallel ranks."""
    micro: Positive | None = None
    """Micro-batch: rows that one rank computes at a time. Defaults to all rows of a rank's share (no gradient
    accumulation). Lower it if a step runs out of memory."""


class StageBatch(Section):
    rows: Annotated[Positive | None, Field(alias="global")] = None
    """Global batch from this stage on, in rows. Defaults to that of the stage before."""
    micro: Positive | None = None
    """Micro-batch from this stage on, in rows per rank. Defaults to that of the stage before."""


class Layout(Section):
    tensor_parallel: Positive = 1
    """Ranks that share one copy of the model (tensor parallelism). The remaining factor of the ranks is data
    parallelism. Raise it if the model does not fit on one device."""
    sequence_parallel: bool = False
    """With `tensor_parallel` above 1, also divide the tokens among those ranks outside the matrix products, which
    divides all activations (Korthikanti et al. 2022). Turn it on if activations fill the memory."""


class StageLayout(Section):
    tensor_parallel: Positive | None = None
    """Tensor parallelism from this stage on, in ranks. Defaults to that of the stage before."""
    sequence_parallel: bool | None = None
    """Sequence parallelism from this stage on. Defaults to that of the stage before."""


class StageMasking(Section):
    rate: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Fraction of the tokens to predict from this stage on. Defaults to the rate that the stage before ended with, at
    first to `data.mask_rate`. Validation masks `data.mask_rate` in every stage."""
    end: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Let the rate go evenly to this fraction over the steps of the stage: `{rate: 0.3, end: 0.15}`."""


class Validation(Section):
    every: Annotated[int, Field(ge=0)] = 0
    """Validate every N steps. 0 validates only at the start, around each growth step and at the end."""
    rows: Positive = 256
    """Held-out rows per validation. More give a less noisy loss and take longer."""


class Checkpoint(Section):
    every: Annotated[int, Field(ge=0)] = 0
    """Save a checkpoint every N steps. 0 saves only before each change of shape, at the end, and by the clock
    (`minutes`). Choose N by how much work you can afford to lose."""
    minutes: Annotated[Number, Field(ge=0)] = 10
    """Also save once this many minutes have passed since the last checkpoint, by the clock of rank 0. 0 does not look
    at the clock."""
    keep_last: Positive = 2
    """Keep the newest N checkpoints and remove older ones."""
    keep_every: Annotated[int, Field(ge=0)] = 0
    """Also keep the checkpoint of every Nth step permanently. 0 keeps none."""
    memory_every: Annotated[int, Field(ge=0)] = 0
    """Every N steps, also keep the state in the memory of each rank's node and of the next one, for a run that starts
    again after losing a node. 0 never does. Use 10 to 100 where nodes fail often."""
    background: bool = True
    """Write checkpoints while training continues. `false` waits until each is on disk, which needs less host memory."""


class Faults(Section):
    """What to do when something breaks."""

    signals: list[Literal["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP"]] = Field(["SIGTERM", "SIGUSR1"])
    """On any of these signals the run saves a checkpoint after the current step and exits, ready to resume. Set the one
    that your scheduler sends before it ends a job."""
    timeout_minutes: Annotated[Number, Field(gt=0)] = 20
    """Stop the run if a rank makes no progress for this many minutes, and name that rank. Raise it if a single step or
    a checkpoint can take longer."""
    restarts: Annotated[int, Field(ge=0)] = 3
    """How often in a row a SLURM job may fail by a hang or a lost rank without gaining a checkpoint. Until then it is
    requeued each time, or continues on the nodes that are left (`min_nodes`)."""
    min_nodes: Positive | None = None
    """Let nodes come and go: a job that loses one continues at once with the others, down to this many. The run then
    uses as many ranks as divide its batches, and `batch.micro` is an upper limit. By default the job ends and goes back
    into the queue."""
    any_ranks: bool = False
    """Let a run with `optimizer.clip_bucket_mb` go on under another number of data-parallel ranks, each of which then
    clips the gradient of other rows. By default that is refused."""
    detect_seconds: Annotated[Number, Field(gt=0)] = 30
    """A node that says nothing for this long is taken for lost: its power, network or kernel is gone. Raise it if nodes
    are known to pause for longer."""
    non_finite_steps: Positive = 3
    """Roll back after this many consecutive steps with a non-finite gradient. Each such step is skipped."""
    roll_backs: Annotated[int, Field(ge=0)] = 2
    """Rollbacks before the run gives up. Each returns to the last checkpoint. After gradients that are not finite it
    skips the data read since."""
    check_replicas: Annotated[int, Field(ge=0)] = 0
    """Every N steps and before each checkpoint, compare the copies of the weights on different ranks, and roll back if
    one differs. 0 never does. It takes one pass over the weights: use 100 if memory or network may fail silently."""
    check_arithmetic: Annotated[int, Field(ge=0)] = 0
    """Every N steps and before each checkpoint, let all ranks compute the gradients of the same rows and roll back if
    one gets others. 0 never does. It takes as long as one micro-batch: use 1000 if processors may compute wrongly."""
    notify: str | None = None
    """A shell command to run when the run restarts, rolls back, is preempted, fails or finishes, such as one that sends
    mail. It learns from environment variables what happened, and has ten seconds. By default nobody is told."""


class Stage(Section):
    """Some steps with one shape. A key that is absent keeps its value from the stage before, but for `schedule`,
    `until`, `split`, `keep` and `grow`, which are of this stage alone, and `align`, which lasts as long as it says."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    """Name of the stage in logs, plots and `--set stages.NAME.key=value`. Letters, digits, `_`, `.` and `-`."""
    steps: Amount | None = None
    """Length in steps, or as a share of the run. One stage may omit it and takes what remains."""
    hours: Hours | None = None
    """Length in hours of training, or as a share of the run, if the run is measured in `hours`."""
    shape: ShapeRequest = ShapeRequest()
    """Fields of the model that change in this stage, as values or as shares of the run's model (`layers: 25%`)."""
    grow: Annotated[list[dict[str, dict[str, Any]]], BeforeValidator(lambda value: _parse_grow(value))] = Field([])
    """Operators that lead from the shape of the stage before to this one, in order; `auto` chooses them. See below."""
    objective: Objective | None = None
    """What to predict from this stage on: masked tokens (`mlm`), or each token from those before it, under causal
    attention (`clm`). Defaults to that of the stage before, at first to `mlm`. `clm` first and then `mlm` can beat
    `mlm` alone."""
    masking: StageMasking = StageMasking()
    sentence_objective: bool | None = None
    """Train the sentence objective of `data.sentence_pairs` from this stage on. Its rows stay the same without it.
    Defaults to that of the stage before, at first to true."""
    sequence: PositiveAmount | None = None
    """Tokens per row from this stage on, as a count or as a share of the run's `sequence`. Defaults to that of the
    stage before. Short rows first save time."""
    batch: StageBatch = StageBatch()
    layout: StageLayout = StageLayout()
    deepspeed: str | None = None
    """DeepSpeed JSON file from this stage on. Defaults to that of the stage before. Change it if a larger shape needs
    another ZeRO stage."""
    optimizer: Annotated[Optimizer | None, AfterValidator(lambda value: _with_name(value))] = None
    """Another optimizer from this stage on: its name and all of its settings, of which none comes from the stage
    before. The schedule goes on, with this `lr` for its peak. Moments carry over where they can
    ([optimizers.md](optimizers.md#when-the-optimizer-changes))."""
    schedule: StageSchedule = StageSchedule()
    until: Until | None = None
    """Rules that end the stage early (below). Its length is then an upper limit."""
    grow_when: Literal["auto", "mixing"] | None = None
    """`auto` begins this stage once a FLOP buys more in it than in the stage before; `mixing` begins it as late as two
    pilots say is possible. As if the stage before had `until: auto` or `until: mixing`."""
    split: Split | None = None
    """Give neighbouring uses of a shared block separate blocks while the stage runs, wherever their gradients disagree
    (SWE-M)."""
    keep: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")] | None = None
    """Save the last state of the stage under this name, for `interpolate`, `rewind` and `align` in later stages."""
    align: Align | None = None


def _with_name(optimizer: Optimizer | None) -> Optimizer | None:
    """A stage that gives a rate alone would change to the default optimizer."""
    if optimizer is not None and "name" not in optimizer.model_fields_set:
        raise UserError("has no name; write all settings of the optimizer, for example {name: muon, lr: 0.02}")
    return optimizer


def _parse_grow(value: Any) -> Any:
    """`stack`, `{widen: {axis: ffn}}` or a list of these -> [{operator: options}]."""
    if isinstance(value, dict) and len(value) > 1:
        raise UserError(f"names {len(value)} operators in one mapping; write a list: [{', '.join(map(str, value))}]")
    operators = value if isinstance(value, list) else [value]
    return [{operator: {}} if isinstance(operator, str) else operator for operator in operators]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Paper(Section):
    """What the paper of a method reports; `plan` prints it next to its own figures."""

    source: str
    """The paper, and how its figures are known."""
    flop_speedup: Number | None = None
    """Speedup in FLOPs that the paper reports: cost of the target from scratch / cost of the method - 1, at equal
    steps."""
    wall_speedup: Number | None = None
    """Speedup in time that the paper reports, by the same formula."""
    claim: str = ""
    """What the paper claims in other terms, as text."""


class Recipe(Section):
    """A whole pretraining run."""

    name: Annotated[str, Field(pattern=r"^\.*[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]
    """Name of the run and of its folder under runs/. Defaults to the name of the file."""
    extends: Annotated[str | None, Field(exclude=True)] = None
    """Another recipe, by file or name, that this one builds on. This file then gives only what differs."""
    plugins: Annotated[list[str], BeforeValidator(_as_list)] = Field([])
    """Code of your own that the recipe uses: files, folders of packages, or modules, such as `[my_operators.py]`. Files
    are looked for next to the recipe, then in the current folder ([plugins.md](plugins.md))."""
    hooks: dict[str, dict[str, Any]] = Field({})
    """Options of hooks that plugins bring, under their names: `{loss_spikes: {factor: 2}}`. They are the arguments that
    the hook is made with."""
    paper: Paper | None = None
    steps: Positive | None = None
    """Optimizer steps of the whole run. Defaults to the sum of the stages' counts."""
    hours: Annotated[Number, Field(gt=0)] | None = None
    """Length of the run in hours of training, instead of `steps`. Stages and schedule then follow the clock. Use it for
    a fixed budget of time."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed for weight initialization, data order, masking and dropout."""
    start: str | None = None
    """Folder with the initial weights of the first stage: a checkpoint of Espalier, Hugging Face transformers or
    DeepSpeed; `hub:OWNER/NAME` is a model of the Hugging Face Hub. By default weights are drawn at random."""
    start_with: Literal["weights", "state"] = "weights"
    """What to take from `start`. `state`: of a checkpoint of Espalier also moments, step counts and its place in the
    text. Use it for decays from a run at a constant rate (WSD)."""
    model: dict[str, Any]
    """The model: `preset` and any field of the shape (below). The corpus sets the vocabulary size."""
    data: Data
    optimizer: Optimizer
    """The optimizer and its settings (below)."""
    schedule: Schedule = Schedule()
    precision: PrecisionOrAuto = "fp32"
    """Precision of weights and activations. `bf16` and `fp16` keep fp32 master weights and moments. Use `bf16` on
    devices that compute in it; `fp16` needs a GPU. `auto` is `bf16` where the machine of the first start computes in
    it, else `fp32`; the run keeps that."""
    tf32: bool = False
    """With `precision: fp32` on a GPU since Ampere, round the inputs of matrix products to 10 bits (TF32). Several
    times as fast, less precise than fp32 and more than bf16."""
    fp8: bool = False
    """Multiply in FP8 in the linear layers of the blocks, forward and backward, on GPUs since Ada and Hopper. Weights
    and all else keep their `precision`, which is best `bf16`. Try it for models as wide as BERT-large. A CPU emulates
    it, for tests."""
    deterministic: bool = False
    """On a GPU, kernels that sum in a fixed order: a run that is resumed or repeated on the same ranks and libraries
    has the same bits. Slower. Runs on CPUs have them anyway."""
    recompute: bool = False
    """Activation checkpointing: keep only the input of each layer and recompute the rest in the backward pass. Same
    results, much less memory, about a third more compute."""
    compile: Literal["auto"] | bool = "auto"
    """Compile the blocks of the model with torch.compile. `auto` does so on a GPU that has the compilers it needs."""
    attention_kernel: AttentionKernel = "auto"
    """What computes attention. `auto` times what can do it on a GPU when the run starts, keeps the fastest, and takes
    `products` on a CPU; with `deterministic` nothing is timed. `trial` is timed on a CPU, too. A name is preferred
    wherever it can do what is asked ([performance.md](performance.md#on-a-gpu))."""
    sequence: Positive = 128
    """Tokens per row."""
    batch: Batch
    layout: Layout = Layout()
    deepspeed: str = "ds_configs/zero1.json"
    """DeepSpeed JSON file: ZeRO stage, offload and communication. Keys that the recipe sets, such as the batch, are
    refused there. Use a higher ZeRO stage if memory is short."""
    validation: Validation = Validation()
    checkpoint: Checkpoint = Checkpoint()
    trackers: list[Literal["wandb", "trackio"]] = Field([])
    """Services that also get the curves: `wandb`, `trackio`. Their packages have to be installed, and set up on the
    machine of rank 0. The run's folder gives the name, `WANDB_*` variables the rest."""
    faults: Faults = Faults()
    stages: Annotated[list[Stage], Field(min_length=1)]
    """The stages of the run, in order (below)."""


@takes(ShapeOfModel)
@takes(OptimizerOptions)
@takes(StageRule)
def _know_the_keys_of(plugin: type) -> None:
    """Their own sections have the keys already."""
    for section in (Stage, Recipe):
        section.model_rebuild(force=True)
