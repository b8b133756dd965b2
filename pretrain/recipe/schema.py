"""What may stand in a recipe: sections, keys, types, defaults. `load.py` reads it, `resolve.py` checks it whole."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from model.errors import UserError
from pretrain.data import Masking, Sampling
from pretrain.optim.section import Optimizer
from pretrain.recipe.shape_request import ShapeRequest
from pretrain.settings.values import Amount, Hours, Number, Positive, PositiveAmount, Section
from pretrain.stage_rules.settings import GradientCorrelation, Until


class Data(Section):
    corpus: str
    """Folder that `prepare` wrote, or a YAML file that mixes several: lines of folder and weight."""
    mask_rate: Annotated[Number, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens that the model has to predict."""
    whole_word: bool = False
    """Mask all pieces of a word together."""
    max_span: Positive = 1
    """Mask spans of up to this many neighbouring words (or tokens, without whole_word)."""
    span_lengths: Literal["inverse", "geometric"] = "inverse"
    """How probable a span of n is: as 1/n (ALBERT) or as 0.8^n (SpanBERT, with max_span 10)."""
    sentence_pairs: Literal["none", "nsp", "sop"] = "none"
    """The sentence objective: none, next-sentence prediction (BERT), or sentence order (ALBERT)."""
    short_probability: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Share of the sequences cut to a random shorter length (0.1 in BERT)."""
    pack: bool = False
    """Several sequences in a row, blind to each other, instead of padding."""

    @property
    def masking(self) -> Masking:
        return Masking(self.mask_rate, self.whole_word, self.max_span, self.span_lengths)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.pack, self.sentence_pairs, self.short_probability)


class Schedule(Section):
    """The learning rate: up to the peak, constant for a while, then down.

    Shares are of the steps it governs: the whole run, or those up to a restart.
    """

    shape: Literal["linear", "polynomial", "cosine", "constant"] = "linear"
    """How the rate falls from the peak to the end."""
    warmup: Amount = 0
    """Steps from zero up to the peak."""
    hold: Amount = 0
    """Steps at the peak between warm-up and decay (LANS)."""
    end: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """The last learning rate, as a part of the peak."""
    power: Annotated[Number, Field(gt=0)] = 1.0
    """Exponent of the polynomial decay."""


class Restart(Schedule):
    """A new schedule from a stage on, to the next restart or the end (two-phase BERT)."""

    lr: Annotated[Number, Field(gt=0)] | None = None
    """Peak of the new schedule. Left out: optimizer.lr."""


class StageSchedule(Section):
    rewarm: Amount = 0
    """Steps over which the rate climbs from zero back to the schedule after a change of shape."""
    lr_scale: Annotated[Number, Field(gt=0)] = 1.0
    """Factor on the learning rate during this stage."""
    restart: Restart | None = None


class Batch(Section):
    rows: Annotated[Positive, Field(alias="global")]
    """Rows (sequences) in one step, over all ranks and accumulation steps."""
    micro: Positive | None = None
    """Rows one rank computes at a time. Left out: as many as fall to a rank in a step (no accumulation)."""


class StageBatch(Section):
    rows: Annotated[Positive | None, Field(alias="global")] = None
    micro: Positive | None = None


class Layout(Section):
    tensor_parallel: Positive = 1
    """Ranks that hold one copy of the model between them; data parallelism takes the rest."""
    sequence_parallel: bool = False
    """With tensor_parallel above 1: between the cut products each rank keeps its part of the tokens, too, which divides
    all activations (Korthikanti et al. 2022)."""


class StageLayout(Section):
    tensor_parallel: Positive | None = None
    sequence_parallel: bool | None = None


class Validation(Section):
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between two validations; 0: only at the start, around every change and at the end."""
    rows: Positive = 256
    """Rows of held-out text in each."""


class Checkpoint(Section):
    every: Annotated[int, Field(ge=0)] = 0
    """Steps between two checkpoints; 0: only before a change of shape and at the end."""
    keep_last: Positive = 2
    """How many of the newest to keep."""
    keep_every: Annotated[int, Field(ge=0)] = 0
    """Keep those of every so many steps for good, too; 0: none."""
    background: bool = True
    """Write while training goes on; otherwise wait until each is on disk."""


class Faults(Section):
    """What to do when something breaks."""

    signals: list[Literal["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP"]] = Field(["SIGTERM", "SIGUSR1"])
    """On one of these the run saves itself at the next step and exits, ready to be started again."""
    timeout_minutes: Annotated[Number, Field(gt=0)] = 20
    """A rank that makes no progress for so long is named, and the run ends."""
    non_finite_steps: Positive = 3
    """Steps in a row with a gradient that is not finite: each is skipped, after so many the run rolls back."""
    roll_backs: Annotated[int, Field(ge=0)] = 2
    """Roll-backs to the last checkpoint, skipping the data read since, before the run stops."""


class Stage(Section):
    """One shape for some steps. What it does not say it takes from the stage before."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    steps: Amount | None = None
    """Count, or share of the run. One stage may leave it out and takes what remains."""
    hours: Hours | None = None
    """The same, in a run that is measured in hours."""
    shape: ShapeRequest = ShapeRequest()
    """Fields of the model that change here."""
    grow: Annotated[list[dict[str, dict[str, Any]]], BeforeValidator(lambda value: _parse_grow(value))] = Field([])
    """The operators that lead from the stage before to this shape, in order."""
    sequence: PositiveAmount | None = None
    """Tokens in a row, or a share of the run's, from here on; as are the next ones."""
    batch: StageBatch = StageBatch()
    layout: StageLayout = StageLayout()
    deepspeed: str | None = None
    schedule: StageSchedule = StageSchedule()
    until: Until | None = None
    """What ends this stage early (below); its length is then the most it may take."""
    grow_when: Literal["auto"] | None = None
    """`auto`: this stage begins when the one before it stops paying, as if that said `until: auto`."""
    split: GradientCorrelation | None = None
    """While the stage goes on, neighbouring uses of a block get separate blocks where their gradients stay apart
    (SWE-M)."""
    keep: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")] | None = None
    """A name under which this stage's last state is kept, for `interpolate` and `rewind` in later ones."""


def _parse_grow(value: Any) -> Any:
    """`stack`, `{widen: {axis: ffn}}` or a list of these -> [{operator: options}]."""
    if isinstance(value, dict) and len(value) > 1:
        raise UserError(f"names {len(value)} operators in one mapping; write a list: [{', '.join(map(str, value))}]")
    operators = value if isinstance(value, list) else [value]
    return [{operator: {}} if isinstance(operator, str) else operator for operator in operators]


class Paper(Section):
    """What the paper of a method reports, for `plan` to print beside what its own formula gives."""

    source: str
    """Which paper, and how its figures are known."""
    flop_speedup: Number | None = None
    """Cost of the target from scratch over that of the method, minus 1, at equal steps."""
    wall_speedup: Number | None = None
    """The same in time."""
    claim: str = ""
    """What it claims in other terms."""


class Recipe(Section):
    """A whole pretraining run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    """Also the name of the run's folder under runs/. Left out: that of the file."""
    extends: Annotated[str | None, Field(exclude=True)] = None
    """Another recipe, by file or name, that this one is laid over: it says only what differs."""
    paper: Paper | None = None
    steps: Positive | None = None
    """Optimizer steps of the whole run. Left out: the sum of the stages' counts."""
    hours: Annotated[Number, Field(gt=0)] | None = None
    """A budget instead of steps: hours of training, on which stages and schedule go by the clock."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of weights, order of the data, masks and dropout."""
    start: str | None = None
    """A folder to take the first stage's weights from, instead of drawing them: a checkpoint of Espalier's, of Hugging
    Face transformers or of DeepSpeed."""
    model: dict[str, Any]
    """`preset` and any field of BertConfig; the vocabulary's size comes from the corpus."""
    data: Data
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of weights and activations; bf16 and fp16 keep fp32 master weights and moments."""
    recompute: bool = False
    """Keep only the input of every layer and compute the layer again in the backward pass: the same numbers from much
    less memory and a third more work."""
    compile: Literal["auto"] | bool = "auto"
    """Run the model's blocks through torch.compile. `auto`: on a GPU, where its compilers are found."""
    sequence: Positive = 128
    """Tokens in a row."""
    batch: Batch
    layout: Layout = Layout()
    deepspeed: str = "ds_configs/zero1.json"
    """ZeRO, offload and communication; nothing that the recipe owns."""
    validation: Validation = Validation()
    checkpoint: Checkpoint = Checkpoint()
    faults: Faults = Faults()
    stages: Annotated[list[Stage], Field(min_length=1)]
    """What happens, in order (below)."""
