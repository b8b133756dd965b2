"""Updates keep their size: on stationary gradients, the RMS of update / lr of every tensor stays within 1.5x of what it
was, from the first step after the change, for every operator under its default policy.

The gradients are drawn, not computed, so that nothing but the moments can move the size: each entry has its own scale,
a steady part and noise. After the change they are what the operator says of gradients (which the tiers prove on a real
model), of a draw of its own for every new tensor; where an operator has no such say, the case gives the model.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from growth.change import ShapeChange
from growth.state import Record
from model.config import BertConfig
from model.parameters import parameter_table
from tests.growth.proving import change_of, tiny

BETAS, EPS = (0.9, 0.999), 1e-12
START, STEPS_AFTER = 3000, 12

Draw = Callable[[str], Tensor]
"""A new gradient of one old parameter."""


class Gradients:
    """A stationary stream for every parameter of a shape."""

    def __init__(self, config: BertConfig, seed: int = 0):
        self.random = torch.Generator().manual_seed(seed)
        self.scale, self.mean = {}, {}
        for name, spec in parameter_table(config).items():
            self.scale[name] = 0.5 + torch.rand(spec.shape, generator=self.random)
            self.mean[name] = 0.3 * torch.randn(spec.shape, generator=self.random)

    def draw(self, name: str) -> Tensor:
        noise = torch.randn(self.scale[name].shape, generator=self.random)
        return self.scale[name] * (self.mean[name] + noise)


def adam(record: Record, gradient: Tensor) -> tuple[Record, Tensor]:
    """One step: the record after it, and update / lr."""
    exp_avg = torch.lerp(record.exp_avg, gradient, 1 - BETAS[0])
    exp_avg_sq = torch.lerp(record.exp_avg_sq, gradient.square(), 1 - BETAS[1])
    step = record.step + 1
    update = exp_avg / (1 - BETAS[0] ** step) / ((exp_avg_sq / (1 - BETAS[1] ** step)).sqrt() + EPS)
    return Record(record.weight, exp_avg, exp_avg_sq, step), update


def rms(tensor: Tensor) -> float:
    return tensor.square().mean().sqrt().item()


def trained(config: BertConfig, draw: Draw) -> tuple[dict[str, Record], dict[str, float]]:
    """The state after START steps of the stream, and the usual update of each parameter (over its last 30 steps)."""
    state, sizes = {}, {}
    generator = torch.Generator().manual_seed(1)
    for name, spec in parameter_table(config).items():
        record = Record.fresh(0.1 * torch.randn(spec.shape, generator=generator))
        # The early steps weigh nothing any more but for the mean square they have left.
        step = START - 60
        squares = torch.stack([draw(name).square() for _ in range(300)]).mean(0)
        record = replace(record, exp_avg_sq=squares * (1 - BETAS[1] ** step), step=step)
        updates = []
        for _ in range(60):
            record, update = adam(record, draw(name))
            updates.append(rms(update))
        state[name], sizes[name] = record, sum(updates[-30:]) / 30
    return state, sizes


def ratios(
    change: ShapeChange, state: dict[str, Record], sizes: dict[str, float], new_gradient: Draw
) -> dict[str, tuple[float, float]]:
    """For every new parameter, its smallest and largest update after the change by the usual one before."""
    usual = sum(sizes.values()) / len(sizes)
    result = {}
    for name in parameter_table(change.target):
        record = change.record(name, state.__getitem__)
        found = []
        for _ in range(STEPS_AFTER):
            record, update = adam(record, new_gradient(name))
            found.append(rms(update) / sizes.get(name, usual))
        result[name] = (min(found), max(found))
    return result


def mapped(change: ShapeChange, state: dict[str, Record], draw: Draw) -> Draw:
    """New gradients by the operator's own word: what it makes of an exp_avg equal to a gradient."""

    def new_gradient(name: str) -> Tensor:
        return change.record(name, lambda old: replace(state[old], exp_avg=draw(old))).exp_avg

    return new_gradient


# Wide enough that the RMS of a single bias says something.
BIG = dict(hidden=64, heads=8, head_dim=8, ffn=96, vocab_size=64, sentence_head=False)
PLAIN, PRE = tiny(**BIG), tiny(**BIG, norm="pre")
HALF = {"hidden": 32, "heads": 4, "ffn": 48}

CASES = {
    "stack": (PLAIN, {"stack": {}}, {}),
    "interleave": (PLAIN, {"interleave": {}}, {"layers": 3}),
    "append_top": (PLAIN, {"append_top": {}}, {"layers": 3}),
    "widen": (PLAIN, {"widen": {}}, {"hidden": 128, "heads": 11, "ffn": 130}),
    "widen fpi": (PLAIN, {"widen": {"how": "fpi"}}, {"hidden": 96}),
    "widen aki": (PLAIN, {"widen": {"how": "aki"}}, {"hidden": 128, "ffn": 192}),
    "widen lemon": (PLAIN, {"widen": {"how": "lemon"}}, {"hidden": 128, "heads": 16}),
    "tile_ffn": (PLAIN, {"tile_ffn": {}}, {}),
    "lengthen": (PLAIN, {"lengthen": {}}, {"max_positions": 30}),
    "prune_heads": (PLAIN, {"prune_heads": {}}, {"heads": 5}),
    "prune_neurons": (PLAIN, {"prune_neurons": {}}, {"ffn": (50, 70)}),
    "softmax_attention": (tiny(**BIG, attention="elu"), {"softmax_attention": {}}, {}),
    "own_maps": (tiny(**BIG, light_layers=(1,)), {"own_maps": {}}, {}),
    "fold_slimming": (tiny(**BIG, slimming={}), {"fold_slimming": {}}, {}),
    "decoalesce": (PLAIN, {"decoalesce": {}}, {"layers": 4, "hidden": 128, "heads": 16}),
}


@pytest.mark.parametrize(("source", "grow", "wanted"), [pytest.param(*case, id=name) for name, case in CASES.items()])
def test_updates_keep_their_size(source, grow, wanted):
    stream = Gradients(source)
    state, sizes = trained(source, stream.draw)
    change = change_of(source, grow, wanted, state)
    for name, (smallest, largest) in ratios(change, state, sizes, mapped(change, state, stream.draw)).items():
        assert smallest > 1 / 1.5 and largest < 1.5, (name, smallest, largest)


def test_a_second_moment_lost_under_an_old_step_blows_updates_up():
    """The naive policy, which the test above has to notice: the moments of new tensors zero, their step kept."""
    stream = Gradients(PLAIN)
    state, sizes = trained(PLAIN, stream.draw)
    change = change_of(PLAIN, {"stack": {}}, {}, state)
    naive = {name: replace(record, exp_avg_sq=torch.zeros_like(record.weight)) for name, record in state.items()}
    after = ratios(change, naive, sizes, mapped(change, naive, stream.draw))
    assert min(largest for _, largest in after.values()) > 1.5


@pytest.mark.parametrize("rho", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("grow", ["unshare", "share"])
def test_updates_keep_their_size_when_gradients_of_uses_agree_by(rho, grow):
    """Each use has its own gradient, correlated by rho with the others'; a shared block sees their mean."""
    apart, together = tiny(**BIG, layers=4), tiny(**BIG, layers=4, sharing=1)
    uses, common = Gradients(apart), Gradients(together, seed=5)
    uses.scale = {name: torch.ones_like(scale) for name, scale in uses.scale.items()}

    def of_one_use(name: str) -> Tensor:
        noise = torch.randn(uses.scale[name].shape, generator=uses.random)
        return rho**0.5 * common_part.get(name.split(".", 2)[-1], noise) + (1 - rho) ** 0.5 * noise

    common_part: dict[str, Tensor] = {}

    def of_the_block(name: str) -> Tensor:
        kind = name.split(".", 2)[-1]
        if not name.startswith("blocks."):
            return common.draw(name)
        common_part[kind] = torch.randn(common.scale[name].shape, generator=common.random)
        return torch.stack([of_one_use(f"blocks.{layer}.{kind}") for layer in range(4)]).mean(0)

    def of_a_layer(name: str) -> Tensor:
        if not name.startswith("blocks."):
            return common.draw(name)
        common_part[name.split(".", 2)[-1]] = torch.randn(uses.scale[name].shape, generator=common.random)
        return of_one_use(name)

    before, after = (of_the_block, of_a_layer) if grow == "unshare" else (of_a_layer, of_the_block)
    source = together if grow == "unshare" else apart
    state, sizes = trained(source, before)
    change = change_of(source, {grow: {"correlation": rho}}, {})
    for name, (smallest, largest) in ratios(change, state, sizes, after).items():
        # A momentum of uses that disagree is up to sqrt(4) smaller than one use's own: it fades in.
        assert smallest > 0.4 and largest < 1.5, (name, smallest, largest)


def test_unsharing_without_the_factor_makes_updates_jump():
    apart, together = tiny(**BIG, layers=4), tiny(**BIG, layers=4, sharing=1)
    uses = Gradients(apart)

    def of_the_block(name: str) -> Tensor:
        kind = name.split(".", 2)[-1]
        layers = [f"blocks.{layer}.{kind}" for layer in range(4)] if name.startswith("blocks.") else [name]
        return torch.stack([uses.draw(layer) for layer in layers]).mean(0)

    state, sizes = trained(together, of_the_block)
    change = change_of(together, {"unshare": {"moments": "copy"}}, {})
    after = ratios(change, state, sizes, uses.draw)
    assert max(largest for name, (_, largest) in after.items() if name.startswith("blocks.")) > 1.5


def test_densify_keeps_updates_in_size():
    """G of the full layer has independent entries; the factors see G down^T and up^T G."""
    source = tiny(**BIG, low_rank={"feedforward.input": 16})
    stream = Gradients(tiny(**BIG))
    generator = torch.Generator().manual_seed(1)
    weights = {name: 0.1 * torch.randn(s.shape, generator=generator) for name, s in parameter_table(source).items()}

    def of_the_full(name: str) -> Tensor:
        return stream.draw(name) / stream.scale[name]

    def of_the_factors(name: str) -> Tensor:
        layer, kind = name.rsplit(".", 1)
        if kind not in ("up", "down"):
            return stream.draw(name)
        full = of_the_full(f"{layer}.weight")
        return full @ weights[f"{layer}.down"].T if kind == "up" else weights[f"{layer}.up"].T @ full

    state, sizes = trained(source, of_the_factors)
    state = {name: replace(record, weight=weights[name]) for name, record in state.items()}
    change = change_of(source, {"densify": {}}, {})
    for name, (smallest, largest) in ratios(change, state, sizes, of_the_full).items():
        # exp_avg is a projection: it starts smaller where the factors saw nothing of G, and fades in.
        is_full = name.endswith("feedforward.input.weight")
        assert largest < 1.5 and (is_full or smallest > 1 / 1.5), (name, smallest, largest)


@pytest.mark.parametrize(
    ("grow", "wanted", "like"),
    [
        ("identity_layers", {"layers": 4}, {"interleave": {}}),
        (
            "mask_growth",
            {"layers": 4, "ffn": 130, "hidden": 96},
            {"stack": {}, "widen": {"how": "fpi", "moments": "copy"}},
        ),
    ],
)
def test_fresh_tensors_start_below_their_neighbours(grow, wanted, like):
    """Gradients of what is new are of the size of a neighbour's; without momentum the first updates are smaller."""
    stream = Gradients(PRE)
    state, sizes = trained(PRE, stream.draw)
    change, copies = (change_of(PRE, how, wanted, state) for how in ({grow: {}}, like))
    for name, (smallest, largest) in ratios(change, state, sizes, mapped(copies, state, stream.draw)).items():
        assert smallest > 0 and largest < 1.5, (name, smallest, largest)


def test_new_units_without_a_second_moment_blow_updates_up():
    """MSG's own policy, zeros in the new part under the old step."""
    stream = Gradients(PRE)
    state, sizes = trained(PRE, stream.draw)
    wanted = {"ffn": 130}
    change = change_of(PRE, {"mask_growth": {"moments": "copy"}}, wanted, state)
    copies = change_of(PRE, {"widen": {"moments": "copy"}}, wanted, state)
    after = ratios(change, state, sizes, mapped(copies, state, stream.draw))
    assert after["blocks.0.feedforward.input.weight"][1] > 1.5


def test_coalesced_updates_are_never_too_large():
    """exp_avg_sq is that of units which agree; where they do not, updates are too small by up to 2x."""
    stream = Gradients(PLAIN)
    state, sizes = trained(PLAIN, stream.draw)
    change = change_of(PLAIN, {"coalesce": {}}, HALF, state)
    for name, (smallest, largest) in ratios(change, state, sizes, mapped(change, state, stream.draw)).items():
        assert smallest > 0.4 and largest < 1.5, (name, smallest, largest)
