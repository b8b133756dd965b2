"""What a machine can do, from a small YAML file: the only numbers of the cost model that are not counted.

    pretrain/machines/h100.yaml      ships with Espalier, from data sheets: nobody has measured it here
    machines/mine.yaml               your own, by `./launch.sh profile --calibrate mine`

Rates are those of one rank while all ranks of its node work; on a CPU, where ranks share caches and memory, there are
those of one alone as well.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from model.errors import UserError, nearest
from pretrain.cost.time.rates import Points, interpolated
from pretrain.recipe import load
from pretrain.settings.yaml_text import parse

SHIPPED = Path(__file__).parent.parent.parent / "machines"
OWN = Path("machines")
"""Where `--calibrate` writes, in the working directory."""

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Kind = Literal["all-reduce", "all-gather", "reduce-scatter", "all-to-all"]
"""Of a message among ranks."""
KINDS: tuple[Kind, Kind, Kind, Kind] = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Arithmetic(Part):
    """What a rank computes in one precision."""

    peak_tflops: Positive | None = None
    """Of the data sheet, dense; none: shares are of the best rate measured."""
    products: Annotated[list[tuple[Positive, Positive, Positive, Positive]], Field(min_length=1)]
    """[M, K, N, TFLOP/s] of matrix products [M, K] x [K, N]."""
    attention: list[tuple[Positive, Positive, Positive]] = []
    """[tokens, head_dim, TFLOP/s] of softmax attention over whole rows or segments of that many tokens, forward and
    backward, its products counted once. None in FP8."""

    def product_rate(self, m: float, k: float, n: float) -> float:
        """FLOP/s."""
        return 1e12 * interpolated(self._products, (m, k, n))

    def attention_rate(self, length: float, head_dim: float) -> float:
        """FLOP/s."""
        return 1e12 * interpolated(self._attention, (length, head_dim))

    @property
    def peak(self) -> float:
        """FLOP/s."""
        return 1e12 * (self.peak_tflops or max(rate for *_, rate in self.products))

    @cached_property
    def _products(self) -> Points:
        return tuple(((m, k, n), rate) for m, k, n, rate in self.products)

    @cached_property
    def _attention(self) -> Points:
        return tuple(((length, width), rate) for length, width, rate in self.attention)


class Rates(Part):
    """What a rank computes and moves."""

    name: str = ""
    arithmetic: Annotated[Mapping[Literal["fp32", "bf16", "fp16", "fp8"], Arithmetic], Field(min_length=1)]
    """`fp8`: of products whose operands have been cast."""
    gb_per_second: Positive
    """Of a rank's memory."""
    passes: Mapping[str, Positive] = {}
    """GB/s of a kind of pass over memory that differs (`pretrain/cost/time/passes.py` names them)."""

    @field_validator("arithmetic")
    @classmethod
    def _attends(cls, arithmetic: Mapping[str, Arithmetic]) -> Mapping[str, Arithmetic]:
        for precision, each in arithmetic.items():
            if precision != "fp8" and not each.attention:
                raise ValueError(f"{precision} needs a rate of attention")
        return arithmetic

    def of(self, precision: str) -> Arithmetic:
        """Raises UserError for a precision that was not measured."""
        found = next((each for name, each in self.arithmetic.items() if name == precision), None)
        if found is None and precision == "fp16":  # as fast as bf16 wherever there is either
            found = next((each for name, each in self.arithmetic.items() if name == "bf16"), None)
        if found is None:
            known = ", ".join(self.arithmetic)
            other = "leave fp8 out" if precision == "fp8" else "set precision"
            raise UserError(
                f"machine {self.name} has no rates in {precision}, only in {known}: {other}, or calibrate again"
            )
        return found

    def rate_of(self, kind: str) -> float:
        """Bytes per second of a pass."""
        return 1e9 * self.passes.get(kind, self.gb_per_second)


class Link(Part):
    """What ranks send each other. Bandwidth as NCCL's tests count it (bus bandwidth)."""

    latency_us: NotNegative
    gb_per_second: Positive
    of: Mapping[Kind, Positive | Annotated[list[tuple[Positive, Positive]], Field(min_length=1)]] = {}
    """GB/s of a kind of message that differs, or [MB, GB/s] of messages of several sizes."""

    def rate(self, kind: Kind, num_bytes: float) -> float:
        """Bytes per second of a message of that many bytes."""
        found = self.of.get(kind, self.gb_per_second)
        if isinstance(found, list):
            points = tuple(((1e6 * megabytes,), rate) for megabytes, rate in found)
            return 1e9 * interpolated(points, (num_bytes,))
        return 1e9 * found


class Host(Part):
    """The part of a step that is spent outside work on tensors."""

    launch_us: NotNegative
    """An operator: on a CPU added to its work, on a GPU hidden behind that of the one before."""
    parameter_us: Mapping[int, NotNegative] = {}
    """DeepSpeed's hooks, for each parameter tensor and micro-batch, by ZeRO stage."""
    step_ms: NotNegative = 0.0
    """Reading the rows' index, the trainer and its hooks."""
    waiting: list[tuple[Positive, Positive]] = []
    """[seconds, share]: of so much work between two meetings of all ranks, what one of them waits for the others. None:
    all are equally fast."""
    token_ns: NotNegative = 0.0
    """Reading and masking a token; hidden on a GPU."""
    start_seconds: NotNegative = 60.0
    """From a job's start to its first step."""
    rebuild_seconds: NotNegative = 5.0
    """A new engine at a change of shape, apart from the bytes that move."""
    compile_seconds: NotNegative = 0.0
    """torch.compile of a block's shape."""
    copy_gb_per_second: Positive = 10.0
    """Of a checkpoint, from a rank's device to the host's memory, while the steps wait."""
    disk_gb_per_second: Positive = 1.0
    """Of all nodes to the disk that they share."""

    def waiting_share(self, seconds: float) -> float:
        """Of work that lasts so long between two meetings."""
        points = tuple(((1e6 * at,), share) for at, share in self.waiting)
        return interpolated(points, (1e6 * seconds,)) if points else 0.0


class Machine(Rates):
    """Nodes of one kind."""

    about: str
    measured: str = ""
    """How and when; empty: nobody has measured this machine, and the numbers are those of data sheets."""
    error_percent: Positive
    """How far a predicted step may be off."""
    error_source: str
    """Where that is known from."""
    host_name: str = ""
    """Of the machine that was measured: there `train` says what it expects."""
    device: Literal["cpu", "gpu"]
    ranks: Annotated[int, Field(gt=0)]
    """On a node: one for each GPU, or as many as were measured together."""
    memory_gib: Positive | None = None
    """Of a GPU."""
    price: NotNegative | None = None
    """Of a rank (a GPU) for an hour: yours to fill in."""
    alone: Rates | None = None
    """Of one rank while the others of its node stand still; none, as on GPUs: the same."""
    host: Host
    within: Link
    """Between the ranks of a node."""
    between: Link | None = None
    """Between nodes, with all ranks of each taking part; none: there is one node."""

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"


def load_machine(name: str) -> Machine:
    """By path, or by name: one of yours in machines/, else one that ships with Espalier. Raises UserError."""
    files = [Path(name)] if "/" in name or name.endswith(".yaml") else [OWN / f"{name}.yaml", SHIPPED / f"{name}.yaml"]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        known = machine_names()
        raise UserError(
            f"machine {name!r} is neither a file nor known{nearest(name, known)}: {', '.join(known)}; "
            "or measure this one: ./launch.sh profile --calibrate NAME"
        )
    try:
        values = parse(file.read_text("utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file} describes no machine: it has to be a mapping of keys")
    with load.explained(Machine, str(file)):
        return Machine.model_validate({"name": file.stem} | values)


def machine_names() -> list[str]:
    return list(dict.fromkeys(file.stem for folder in (OWN, SHIPPED) for file in sorted(folder.glob("*.yaml"))))


def machine_here(host_name: str, on_cpu: bool) -> Machine | None:
    """The one of machines/ whose CPU, or GPUs, were measured on this host, the newest of several. Files that cannot be
    read do not matter."""
    for file in sorted(filter(Path.is_file, OWN.glob("*.yaml")), key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            machine = load_machine(str(file))
        except UserError:
            continue
        if machine.host_name == host_name and machine.on_cpu == on_cpu:
            return machine
    return None
