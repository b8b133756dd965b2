"""How long a step takes, and what it is made of: what the engine does, counted, at the rates of a machine."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2

from model.errors import UserError
from model.parameters import parameter_table
from pretrain.cost.savings import stage_flops
from pretrain.cost.time.fp8 import cast_bytes, cast_operators
from pretrain.cost.time.machine import KINDS, Machine, Rates
from pretrain.cost.time.messages import ALL_TO_ALL, Message, messages
from pretrain.cost.time.passes import Bytes, PassBytes, pass_bytes
from pretrain.cost.time.products import Mixing, Product, backward_products, forward_products, mixing
from pretrain.data.objective import MaskRate
from pretrain.engine.config_file import overlaps_messages
from pretrain.recipe import ResolvedStage, Run

FORWARD_OPERATORS, BACKWARD_OPERATORS = (19, 49), (51, 61)
"""Of a layer, and outside the layers. Counted on the CPU, without dropout."""
DROPOUT_OPERATORS = 14
"""More of a layer forward, and a third of them backward."""
FUSED_SHARE = 0.5
"""Of these operators, where blocks are compiled."""
UPDATE_OPERATORS = {0: (45, 2), 1: (81, 2), 2: (81, 2), 3: (63, 2)}
"""Of the optimizer's step by ZeRO stage: in all, and for each parameter on a CPU."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step on one rank. The parts add up to the step."""

    forward: float
    """Matrix products, attention and passes over memory, of all micro-batches."""
    backward: float
    communication: float
    """Exposed: what is sent while nothing is computed, and waiting for slower ranks."""
    hidden: float
    """Communication behind computation: no part of the sum."""
    optimizer: float
    rest: float
    """Launches that nothing hides, DeepSpeed's hooks, reading and masking, the trainer."""
    flops: float
    """Of all ranks, by the formula of pretrain/cost/flops.py, and the optimizer's own."""
    tokens: int
    """Of all ranks, padding included."""
    num_ranks: int

    @property
    def seconds(self) -> float:
        return self.forward + self.backward + self.communication + self.optimizer + self.rest

    @property
    def tokens_per_second(self) -> float:
        """Of one rank."""
        return self.tokens / self.seconds / self.num_ranks

    def share_of(self, peak: float) -> float:
        """FLOP/s of a rank over `peak`."""
        return self.flops / self.seconds / self.num_ranks / peak


def step_time(run: Run, stage: ResolvedStage, machine: Machine, segment: float | None = None) -> StepTime:
    """`segment`: tokens of a segment that attention is computed within; None: whole rows. A CPU computes whole rows."""
    return Step(run, stage, machine, None if machine.on_cpu else segment).time()


class Step:
    """One stage of a run on a machine."""

    def __init__(self, run: Run, stage: ResolvedStage, machine: Machine, segment: float | None):
        self.run, self.stage, self.machine, self.segment = run, stage, machine, segment
        self.fp8 = run.recipe.fp8
        self.num_ranks = stage.data_parallel * stage.tensor_parallel
        choice = run.recipe.compile
        self.fused = not machine.on_cpu if choice == "auto" else choice
        others = min(self.num_ranks, machine.ranks) - 1
        crowd = others / max(1, machine.ranks - 1) if machine.alone else 1.0
        self.rates: list[tuple[float, Rates]] = [(crowd, machine)]
        """Between those of all ranks of a node at work and those of one alone."""
        if machine.alone:
            self.rates.append((1 - crowd, machine.alone))

    def time(self) -> StepTime:
        stage, host = self.stage, self.machine.host
        moved = self._passes()
        looked, looked_back = mixing(stage, self.segment)
        forward = self._computed(forward_products(stage), looked, moved.forward)
        backward = self._computed(backward_products(stage), looked_back, moved.backward)
        reducing = self._moved(moved.reducing)
        rounds = {0: 0, 1: 1}.get(stage.zero_stage, stage.accumulation)
        launches = self._launches()
        if not self.machine.on_cpu:
            launches = max(0.0, launches - forward - backward)  # the device works on while the host is ahead
        orthogonalizing = self._orthogonalized()
        exposed, hidden = self._sent(forward, backward, orthogonalizing)
        forward += self._taught()
        waited = self._waited(stage.accumulation * (forward + backward))
        tokens = stage.global_batch * stage.sequence
        reading = 1e-9 * host.token_ns * tokens * self.machine.on_cpu  # a GPU computes meanwhile
        return StepTime(
            forward=stage.accumulation * forward,
            backward=stage.accumulation * backward + rounds * reducing,
            communication=exposed + waited,
            hidden=hidden,
            optimizer=self._moved(moved.update) + self._update_launches() + orthogonalizing,
            rest=stage.accumulation * launches + 1e-3 * host.step_ms + reading,
            flops=stage_flops(stage),
            tokens=tokens,
            num_ranks=self.num_ranks,
        )

    def forward_seconds(self) -> float:
        """Of one micro-batch without gradients, as in validation."""
        looked, _ = mixing(self.stage, self.segment)
        return self._computed(forward_products(self.stage), looked, self._passes().forward)

    def _taught(self) -> float:
        """Seconds of one micro-batch of a frozen teacher, in the mean of the steps: its forward pass, without heads."""
        stage = self.stage
        if stage.align is None or stage.align.config is None:
            return 0.0
        teacher = replace(
            stage, config=stage.align.config, align=None, objective="mlm", mask_rate=MaskRate(0, 0), recompute=False
        )
        step = Step(self.run, teacher, self.machine, self.segment)
        step.fp8 = False
        return stage.aligned_share * step.forward_seconds()

    def _passes(self) -> PassBytes:
        moved = pass_bytes(self.stage, self.machine.on_cpu, self.fused)
        if self.fp8:
            moved.forward["cast"], moved.backward["cast"] = cast_bytes(self.stage, self.fused)
        return moved

    def _computed(self, products: Iterable[Product], looked: Sequence[Mixing], moved: Bytes) -> float:
        precision, width = self.stage.precision, self.stage.config.head_dim
        seconds = self._moved(moved) + self._multiplied(products, precision)
        for share, rates in self.rates:
            attention_rate = rates.of(precision).attention_rate
            seconds += share * sum(each.flops / attention_rate(each.length, width) for each in looked)
        return seconds

    def _orthogonalized(self) -> float:
        """Seconds in which the rank that computes most of the optimizer's own products does; the others wait."""
        own = "fp32" if self.machine.on_cpu else "bf16"
        precision = own if any(each == own for each in self.machine.arithmetic) else self.stage.precision
        return self._multiplied((Product(*each) for each in self.stage.optimizer_work.products), precision)

    def _multiplied(self, products: Iterable[Product], precision: str) -> float:
        flops: dict[tuple[str, float, float, float], float] = defaultdict(float)
        for each in products:
            flops["fp8" if self.fp8 and each.in_block else precision, each.m, each.k, each.n] += each.flops
        return sum(
            share * count / rates.of(kind).product_rate(m, k, n)
            for share, rates in self.rates
            for (kind, m, k, n), count in flops.items()
            if count
        )

    def _moved(self, moved: Bytes) -> float:
        return sum(share * count / rates.rate_of(kind) for share, rates in self.rates for kind, count in moved.items())

    def _launches(self) -> float:
        """Host seconds of one micro-batch."""
        host, config = self.machine.host, self.stage.config
        operators = 0.0
        drops = config.hidden_dropout > 0 or config.attention_dropout > 0
        runs = sum(config.run_share(index) for index in range(config.layers))
        for (layer, outside), dropped in ((FORWARD_OPERATORS, 1.0), (BACKWARD_OPERATORS, 1 / 3)):
            inside = layer + DROPOUT_OPERATORS * dropped * drops
            operators += outside + inside * runs * (FUSED_SHARE if self.fused else 1.0)
        if self.fp8:
            operators += sum(cast_operators(self.stage, self.fused))
        hooks = host.parameter_us.get(self.stage.zero_stage, 0.0) * len(parameter_table(config))
        return 1e-6 * (host.launch_us * operators + hooks)

    def _update_launches(self) -> float:
        in_all, each = UPDATE_OPERATORS[self.stage.zero_stage]
        if self.machine.on_cpu or (self.stage.zero_stage == 0 and self.stage.precision != "fp32"):
            in_all += each * len(parameter_table(self.stage.config))
        return 1e-6 * self.machine.host.launch_us * in_all

    def _sent(self, forward: float, backward: float, orthogonalizing: float) -> tuple[float, float]:
        """Exposed and hidden seconds of a step's messages. What the first forward pass, and the optimizer, need is
        waited for; so are the last bucket of gradients and the first matrices that come to their homes."""
        stage = self.stage
        seconds: dict[str, list[float]] = {}
        behind = {  # for each kind that may overlap: computation, and which message is waited for
            "gathering": (stage.accumulation * forward, 0),
            "reduction": ((1 if stage.zero_stage == 1 else stage.accumulation) * backward, -1),
            "rounds": (orthogonalizing, 0),
        }
        for message in messages(stage, self.machine.on_cpu):
            seconds.setdefault(message.when, []).append(message.times * self.seconds_of(message))
        total = sum(map(sum, seconds.values()))
        if self.machine.on_cpu or not overlaps_messages(stage.deepspeed, True, stage.data_parallel):
            return total, 0.0
        hidden = 0.0
        for when, (computing, waited) in behind.items():
            if times := seconds.get(when):
                hidden += min(sum(times) - times[waited], computing)
        return total - hidden, hidden

    def _waited(self, computing: float) -> float:
        """Seconds of a step in which a rank waits for slower ones. Between tensor-parallel ranks every message is a
        meeting; data-parallel ones meet where gradients are summed, and before each block that ZeRO 3 gathers."""
        stage = self.stage
        over_tensor = (each.times for each in messages(stage, self.machine.on_cpu) if each.over == "tensor")
        of_data = {2: stage.accumulation, 3: 2 * stage.accumulation * stage.config.layers}.get(stage.zero_stage, 1)
        of_data = 1 if stage.clips_on_ranks else of_data
        num_meetings = sum(over_tensor) + of_data * (stage.data_parallel > 1)
        return computing * self.machine.host.waiting_share(computing / num_meetings) if num_meetings else 0.0

    def seconds_of(self, message: Message) -> float:
        """Of one message, alone."""
        machine, stage = self.machine, self.stage
        size = {"data": stage.data_parallel, "tensor": stage.tensor_parallel, "all": self.num_ranks}[message.over]
        num_nodes = ceil(self.num_ranks / machine.ranks)
        crosses = num_nodes > 1 and message.over != "tensor"
        link = machine.between if crosses else machine.within
        if link is None:
            raise UserError(
                f"machine {machine.name} is one node of {machine.ranks} ranks, and {self.num_ranks} are planned: "
                "add `between` to its file, or plan for fewer"
            )
        rate = link.rate(message.kind, message.num_bytes)
        if crosses and message.over == "data":
            rate /= stage.tensor_parallel  # as many groups share the network
        if message.kind == ALL_TO_ALL:  # a rank's own bytes; through the network those of all ranks of its node
            return 1e-6 * link.latency_us + message.num_bytes * (machine.ranks if crosses else 1) / rate
        rounds = (2 if message.kind == KINDS[0] else 1) * (size - 1) / size
        latency = link.latency_us * ceil(log2(num_nodes if crosses else size))
        return 1e-6 * latency + rounds * message.num_bytes / rate
