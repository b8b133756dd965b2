"""What an operator has to keep, as assertions: for tests of operators, here and elsewhere.

`check_operator` (pretrain/use/check_operator.py) makes them all. An AssertionError names the parameter and the numbers.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from growth.change import ShapeChange
from growth.state import Record
from model.batch import Batch
from model.bert import BertForPreTraining
from model.config import BertConfig
from model.errors import UserError
from model.initialize import initial_weight
from model.parameters import parameter_table

Tier = Literal[1, 2, 3]
State = Mapping[str, Record]

ROWS, LENGTH, MASKED = 4, 8, (1, 4)
"""Of a batch: rows, tokens in each, and which of them are masked."""
BETAS, EPS = (0.9, 0.999), 1e-12
START, STEPS_AFTER = 3000, 12
MEAN_SQUARE_STEPS, MOMENTUM_STEPS = 300, 60
"""Steps of the stream from which the moments at START are made."""
LARGEST_JUMP = 1.5

Draw = Callable[[str, int], Tensor]
"""The gradient of a parameter at a step; the same whenever it is asked for."""


def noise(shape: tuple[int, ...], *key: object) -> Tensor:
    """Standard normal numbers that depend on nothing but the key."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr(key).encode()))
    return torch.randn(shape, generator=generator)


def batch_of(config: BertConfig, seed: int = 0) -> Batch:
    """Full rows with equally many masked tokens."""
    ids = torch.randint(config.vocab_size, (ROWS, LENGTH), generator=torch.Generator().manual_seed(seed))
    firsts = LENGTH * torch.arange(ROWS)
    masked = (firsts[:, None] + torch.tensor(MASKED)).flatten()
    batch = Batch(ids, masked, ids.flatten()[masked].roll(1))
    if not config.sentence_head:
        return batch
    return replace(batch, sentence_positions=firsts, sentence_labels=torch.arange(ROWS) % 2)


# ---- records ----


def assert_records(change: ShapeChange, state: State) -> None:
    """Every parameter of the new shape has a record: finite, the same each time, without a negative second moment or a
    step that nothing has taken."""
    last = max(record.step for record in state.values())
    for name in parameter_table(change.target):
        record, again = (change.record(name, state.__getitem__) for _ in range(2))
        for tensor, same in zip(record.tensors(), again.tensors(), strict=True):
            assert tensor.isfinite().all(), f"{name} is not finite"
            assert torch.equal(tensor, same), f"{name} differs from one call to the next: draw it from a seed"
        first, second = record.exp_avg, record.exp_avg_sq
        assert second is not None, f"{name} has lost its second moment"
        assert (second >= 0).all(), f"{name} has a negative second moment"
        assert 0 <= record.step <= last, f"{name} is at step {record.step}, after {last}"
        is_untouched = not first.any() and not second.any()
        assert record.step == 0 or not is_untouched, f"{name} has no moments but step {record.step}; use Record.fresh"


def assert_one_moment_suffices(change: ShapeChange, state: State) -> None:
    """`state`: as in a run with Muon, which keeps the first moment alone of the layers' matrices."""
    for name in parameter_table(change.target):
        try:
            record = change.record(name, state.__getitem__)
        except UserError as fault:
            raise AssertionError(str(fault)) from fault
        for tensor in record.tensors():
            assert tensor.isfinite().all(), f"{name} is not finite where matrices have one moment, as with muon"


def with_one_moment(config: BertConfig, state: State) -> dict[str, Record]:
    """A state of this shape as Muon would keep it."""
    return {
        name: replace(state[name], exp_avg_sq=None) if spec.is_layer_matrix else state[name]
        for name, spec in parameter_table(config).items()
    }


# ---- tiers ----


def generic_state(config: BertConfig, step: int = START) -> dict[str, Record]:
    """Weights and moments in float64, with every number at a generic point: no bias is 0, no norm weight 1."""
    state = {}
    for name, spec in parameter_table(config).items():
        drawn = [noise(spec.shape, name, kind).double() for kind in ("weight", "exp_avg", "exp_avg_sq")]
        weight = 2 * initial_weight(config, name, seed=0).double() + 0.1 * drawn[0]
        state[name] = Record(weight, 1e-2 * drawn[1], 1e-4 * drawn[2].square(), step)
    return state


def loss_and_gradients(config: BertConfig, state: State) -> tuple[float, dict[str, Tensor]]:
    """Of one batch, in float64, by parameter in logical shape."""
    model = BertForPreTraining(config).double().eval()
    model.load_weights(lambda name: state[name].weight)
    loss = model(batch_of(config)).loss
    loss.backward()
    gradients = {}
    for name, spec in parameter_table(config).items():
        parameter = model.get_parameter(name)
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        rows = config.vocab_size if spec.axes[0].name == "vocabulary" else None  # the table is padded
        gradients[name] = gradient[:rows].reshape(spec.shape)
    return loss.item(), gradients


def assert_tier(change: ShapeChange, tier: Tier) -> None:
    """Tier 1: the loss stays. Tier 2: so does the training state: the change says what the new gradients are."""
    state = generic_state(change.source)
    grown = {name: change.record(name, state.__getitem__) for name in parameter_table(change.target)}
    before, gradients = loss_and_gradients(change.source, state)
    after, new_gradients = loss_and_gradients(change.target, grown)
    if tier <= 2:
        assert abs(after - before) < 1e-10 * abs(before), f"tier {tier}, but the loss goes from {before} to {after}"
    if tier == 2:
        as_moments = {name: replace(record, exp_avg=gradients[name]) for name, record in state.items()}
        for name, gradient in new_gradients.items():
            said = change.record(name, as_moments.__getitem__).exp_avg
            difference = (said - gradient).abs().max().item()
            assert difference < 1e-9, f"tier 2, but the gradient of {name} is off by {difference}"


# ---- the size of updates, on gradients that are drawn: nothing but the moments can move it ----


class Gradients:
    """A stationary stream for every parameter of a shape: each entry has its own scale, a steady part and noise."""

    def __init__(self, config: BertConfig, seed: int = 0):
        self.seed = seed
        self.scale, self.mean = {}, {}
        random = torch.Generator().manual_seed(seed)
        for name, spec in parameter_table(config).items():
            self.scale[name] = 0.5 + torch.rand(spec.shape, generator=random)
            self.mean[name] = 0.3 * torch.randn(spec.shape, generator=random)

    def draw(self, name: str, step: int) -> Tensor:
        scale = self.scale[name]
        return scale * (self.mean[name] + noise(scale.shape, self.seed, name, step))


def adam(record: Record, gradient: Tensor) -> tuple[Record, Tensor]:
    """One step: the record after it, and update / lr."""
    assert record.exp_avg_sq is not None
    exp_avg = torch.lerp(record.exp_avg, gradient, 1 - BETAS[0])
    exp_avg_sq = torch.lerp(record.exp_avg_sq, gradient.square(), 1 - BETAS[1])
    step = record.step + 1
    update = exp_avg / (1 - BETAS[0] ** step) / ((exp_avg_sq / (1 - BETAS[1] ** step)).sqrt() + EPS)
    return Record(record.weight, exp_avg, exp_avg_sq, step), update


def trained(config: BertConfig, draw: Draw) -> tuple[dict[str, Record], dict[str, float]]:
    """The state after START steps of the stream, and the usual update of each parameter (over its last 30 steps)."""
    state, sizes = {}, {}
    for name, spec in parameter_table(config).items():
        # The early steps weigh nothing any more but for the mean square they have left.
        step = START - MOMENTUM_STEPS
        squares = (draw(name, number).square() for number in range(MEAN_SQUARE_STEPS))
        exp_avg_sq = sum(squares, torch.zeros(spec.shape)) / MEAN_SQUARE_STEPS * (1 - BETAS[1] ** step)
        record = Record(0.1 * noise(spec.shape, name), torch.zeros(spec.shape), exp_avg_sq, step)
        updates = []
        for number in range(MEAN_SQUARE_STEPS, MEAN_SQUARE_STEPS + MOMENTUM_STEPS):
            record, update = adam(record, draw(name, number))
            updates.append(_rms(update))
        state[name], sizes[name] = record, sum(updates[-30:]) / 30
    return state, sizes


def mapped(change: ShapeChange, state: State, draw: Draw) -> Draw:
    """New gradients by the operator's own word: what it makes of an exp_avg equal to a gradient."""

    def new_gradient(name: str, step: int) -> Tensor:
        return change.record(name, lambda old: replace(state[old], exp_avg=draw(old, step))).exp_avg

    return new_gradient


def ratios(
    change: ShapeChange, state: State, sizes: Mapping[str, float], new_gradient: Draw
) -> dict[str, tuple[float, float]]:
    """For every new parameter, its smallest and largest update after the change by the usual one before. Those that
    start over at step 0 are left out: their updates are those of a run's first steps."""
    usual = sum(sizes.values()) / len(sizes)
    result = {}
    for name in parameter_table(change.target):
        record = change.record(name, state.__getitem__)
        if record.step == 0:
            continue
        found = []
        for step in range(START, START + STEPS_AFTER):
            record, update = adam(record, new_gradient(name, step))
            found.append(_rms(update) / sizes.get(name, usual))
        result[name] = (min(found), max(found))
    return result


def assert_in_size(found: Mapping[str, tuple[float, float]]) -> None:
    """`found`: as `ratios` gives it."""
    for name, (smallest, largest) in found.items():
        assert smallest > 1 / LARGEST_JUMP, f"updates of {name} shrink to {smallest:.2f} of their size"
        assert largest < LARGEST_JUMP, f"updates of {name} grow to {largest:.2f} times their size"


def _rms(tensor: Tensor) -> float:
    return tensor.square().mean().sqrt().item()
