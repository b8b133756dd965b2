"""Updates keep their size: on stationary gradients, the RMS of update / lr of every tensor stays within 1.5x of what it
was, from the first step after the change, for every operator under its default policy.

The gradients are drawn, not computed, so that nothing but the moments can move the size: each entry has its own scale,
a steady part and noise. After the change they are what the operator says of gradients (which the tiers prove on a real
model); where an operator has no such say, the case gives the model.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from growth.operators import OPERATORS
from growth.testing import Gradients, assert_in_size, mapped, noise, ratios, trained
from model.config import BertConfig
from model.parameters import parameter_table
from tests.support.proving import change_of, tiny


class Uses:
    """Gradients of layers that agree by `rho`, with all entries of one scale: of each layer, or of a block that layers
    share, which sees their mean."""

    def __init__(self, apart: BertConfig, together: BertConfig, rho: float):
        self.apart, self.together, self.rho = parameter_table(apart), together, rho

    def of_layer(self, name: str, step: int) -> Tensor:
        spec = self.apart[name]
        common = noise(spec.shape, spec.local_name if spec.block is not None else name, step)
        return self.rho**0.5 * common + (1 - self.rho) ** 0.5 * noise(spec.shape, name, "own", step)

    def of_block(self, name: str, step: int) -> Tensor:
        spec = parameter_table(self.together)[name]
        if spec.block is None:
            return self.of_layer(name, step)
        layers = self.together.layers_of(spec.block)
        return torch.stack([self.of_layer(f"blocks.{layer}.{spec.local_name}", step) for layer in layers]).mean(0)


# Wide enough that the RMS of a single bias says something.
BIG = dict(hidden=64, heads=8, head_dim=8, ffn=96, vocab_size=64, sentence_head=False)
PLAIN, PRE = tiny(**BIG), tiny(**BIG, norm="pre")
HALF = {"hidden": 32, "heads": 4, "ffn": 48}
MASKED = PRE.replace(hidden=96, masked={"hidden": 64, "layers": (1,), "steps": 10})

CASES = {
    "stack": (PLAIN, {"stack": {}}, {}),
    "interleave": (PLAIN, {"interleave": {}}, {"layers": 3}),
    "append_top": (PLAIN, {"append_top": {}}, {"layers": 3}),
    "fresh_layers": (PLAIN, {"fresh_layers": {}}, {"layers": 3}),
    "widen": (PLAIN, {"widen": {}}, {"hidden": 128, "heads": 11, "ffn": 130}),
    "widen fpi": (PLAIN, {"widen": {"how": "fpi"}}, {"hidden": 96}),
    "widen aki": (PLAIN, {"widen": {"how": "aki"}}, {"hidden": 128, "ffn": 192}),
    "widen lemon": (PLAIN, {"widen": {"how": "lemon"}}, {"hidden": 128, "heads": 16}),
    "tile_ffn": (PLAIN, {"tile_ffn": {}}, {}),
    "tile_center": (PLAIN, {"tile_center": {}}, {"layers": 3, "hidden": 96, "heads": 11, "ffn": 150}),
    "ligo": (PLAIN, {"ligo": {"steps": 0}}, {"layers": 3}),
    "unmask": (MASKED, {"unmask": {}}, {}),
    "lengthen": (PLAIN, {"lengthen": {}}, {"max_positions": 30}),
    "lengthen interpolate": (PLAIN, {"lengthen": {"how": "interpolate"}}, {"max_positions": 30}),
    "unpool": (tiny(**BIG, pool_window=2), {"unpool": {}}, {}),
    "prune_heads": (PLAIN, {"prune_heads": {}}, {"heads": 5}),
    "prune_neurons": (PLAIN, {"prune_neurons": {}}, {"ffn": (50, 70)}),
    "softmax_attention": (tiny(**BIG, attention="elu"), {"softmax_attention": {}}, {}),
    "own_maps": (tiny(**BIG, light_layers=(1,)), {"own_maps": {}}, {}),
    "fold_slimming": (tiny(**BIG, slimming={}), {"fold_slimming": {}}, {}),
    "coalesce": (PLAIN, {"coalesce": {}}, HALF),
    "coalesce layers": (tiny(**BIG, layers=4), {"coalesce": {}}, {"layers": 1, **HALF}),
    "decoalesce": (PLAIN, {"decoalesce": {}}, {"layers": 4, "hidden": 128, "heads": 16}),
    "modern parts": (tiny(**BIG, norm="pre", norm_bias=False, gated=True), {"widen": {}}, {"hidden": 128, "ffn": 200}),
    "interpolate": (PLAIN, {"interpolate": {"checkpoint": "runs/big"}}, {}),
}
# Gradients of what is new are those of a neighbour: as the operator named last says of them.
LIKE = {
    "identity_layers": (PRE, {"identity_layers": {}}, {"layers": 4}, {"interleave": {}}),
    "mask_growth": (
        PRE,
        {"mask_growth": {}},
        {"layers": 4, "ffn": 300, "hidden": 160},
        {"stack": {}, "widen": {"how": "fpi", "moments": "copy"}},
    ),
}
ELSEWHERE = {"unshare", "share", "densify"}
STARTS_OVER = {"rewind"}  # on purpose, as at the first step of a run


def test_every_operator_has_a_case():
    cases = {next(iter(grow)) for _, grow, *_ in (*CASES.values(), *LIKE.values())}
    assert cases | ELSEWHERE | STARTS_OVER == OPERATORS.keys()


@pytest.mark.parametrize(("source", "grow", "wanted"), [pytest.param(*case, id=name) for name, case in CASES.items()])
def test_updates_keep_their_size(source, grow, wanted):
    stream = Gradients(source)
    state, sizes = trained(source, stream.draw)
    change = change_of(source, grow, wanted, state, saved=lambda path: (source, state.__getitem__))
    assert_in_size(ratios(change, state, sizes, mapped(change, state, stream.draw)))


@pytest.mark.parametrize(
    ("source", "grow", "wanted", "like"), [pytest.param(*case, id=name) for name, case in LIKE.items()]
)
def test_updates_of_what_is_new_are_as_large_as_its_neighbours(source, grow, wanted, like):
    stream = Gradients(source)
    state, sizes = trained(source, stream.draw)
    change, copies = (change_of(source, how, wanted, state) for how in (grow, like))
    assert_in_size(ratios(change, state, sizes, mapped(copies, state, stream.draw)))


@pytest.mark.parametrize(("rho", "num_layers"), [(0.0, 4), (0.4, 4), (1.0, 4), (0.0, 10)])
@pytest.mark.parametrize("grow", ["unshare", "share"])
def test_updates_keep_their_size_when_gradients_of_uses_agree_by(rho, num_layers, grow):
    apart = tiny(**BIG, layers=num_layers)
    together = apart.replace(sharing=1)
    uses = Uses(apart, together, rho)
    ways = [(together, uses.of_block), (apart, uses.of_layer)]
    (source, before), (_, after) = ways if grow == "unshare" else reversed(ways)
    state, sizes = trained(source, before)
    assert_in_size(ratios(change_of(source, {grow: {"correlation": rho}}, {}), state, sizes, after))


def test_densify_keeps_updates_in_size():
    """G of the full layer has independent entries; the factors see G down^T and up^T G."""
    source = tiny(**BIG, low_rank={"feedforward.input": 4})
    stream = Gradients(tiny(**BIG))
    weights = {name: 0.1 * noise(spec.shape, name) for name, spec in parameter_table(source).items()}

    def of_the_full(name: str, step: int) -> Tensor:
        return stream.draw(name, step) / stream.scale[name]

    def of_the_factors(name: str, step: int) -> Tensor:
        layer, kind = name.rsplit(".", 1)
        if kind not in ("up", "down"):
            return of_the_full(name, step)
        full = of_the_full(f"{layer}.weight", step)
        return full @ weights[f"{layer}.down"].T if kind == "up" else weights[f"{layer}.up"].T @ full

    state, sizes = trained(source, of_the_factors)
    assert all(torch.equal(state[name].weight, weight) for name, weight in weights.items())
    assert_in_size(ratios(change_of(source, {"densify": {}}, {}), state, sizes, of_the_full))


# ---- policies that the tests above have to notice ----


def test_a_second_moment_lost_under_an_old_step_blows_updates_up():
    """The naive policy: the moments of new tensors zero, their step kept."""
    stream = Gradients(PLAIN)
    state, sizes = trained(PLAIN, stream.draw)
    change = change_of(PLAIN, {"stack": {}}, {}, state)
    naive = {name: replace(record, exp_avg_sq=torch.zeros_like(record.weight)) for name, record in state.items()}
    after = ratios(change, naive, sizes, mapped(change, naive, stream.draw))
    assert min(largest for _, largest in after.values()) > 1.5


def test_new_units_without_a_second_moment_blow_updates_up():
    """MSG's own policy, zeros in the new part under the old step."""
    stream = Gradients(PRE)
    state, sizes = trained(PRE, stream.draw)
    wanted = {"ffn": 130}
    change = change_of(PRE, {"mask_growth": {"moments": "copy"}}, wanted, state)
    copies = change_of(PRE, {"widen": {"moments": "copy"}}, wanted, state)
    after = ratios(change, state, sizes, mapped(copies, state, stream.draw))
    assert after["blocks.0.feedforward.input.weight"][1] > 1.5


def test_unsharing_without_the_factor_makes_updates_jump():
    apart = tiny(**BIG, layers=4)
    together = apart.replace(sharing=1)
    uses = Uses(apart, together, rho=0)
    state, sizes = trained(together, uses.of_block)
    change = change_of(together, {"unshare": {"moments": "copy"}}, {})
    after = ratios(change, state, sizes, uses.of_layer)
    assert max(largest for name, (_, largest) in after.items() if name.startswith("blocks.")) > 1.5
