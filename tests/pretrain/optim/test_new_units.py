"""New units that begin without state: their moments, steps and learning rate against numpy, under every partition."""

import numpy as np
import pytest
import torch

from growth.new_units import NewUnits
from growth.operators import make_operator, shape_change
from growth.operators.width import changed_widths
from growth.state import Record
from model.errors import UserError
from model.parameters import parameter_table
from pretrain.checkpoint import find_checkpoint, load_checkpoint, read_index
from pretrain.checkpoint.progress import Progress
from pretrain.engine.exchange import read_state
from pretrain.engine.move import move
from pretrain.engine.new_units import mark_new_units, train_new_units
from pretrain.engine.zero import destroy
from pretrain.optim import new_units as apart
from pretrain.optim.adamw_step import AdamW
from pretrain.optim.new_units import NewEntries
from pretrain.recipe import resolve
from pretrain.training.train import train as train_run
from pretrain.use.grow import grow
from tests.support.harness import CONFIG, start, train, whole_state
from tests.support.muon_reference import is_matrix, orthogonal
from tests.support.proving import change_of, grown, random_state, tiny
from tests.support.sharded import OPTIONS, optimizer_settings
from tests.support.tiny import metrics, same_bits, tiny_recipe, train_until
from tests.support.workers import pool

BETAS, EPS = (0.9, 0.98), 1e-6
WIDE = {"hidden": 64, "heads": 8, "ffn": 144}


def adamw_weight(w, m, v, count, lr, decay):
    """In numpy, from the moments after the step; count and lr of each entry."""
    m_hat, v_hat = m / (1 - BETAS[0] ** count), v / (1 - BETAS[1] ** count)
    return w - lr * (m_hat / (np.sqrt(v_hat) + EPS) + decay * w)


@pytest.mark.parametrize(
    ("operator", "wanted"),
    [({"widen": {}}, {"hidden": 24, "heads": 5, "ffn": 17}), ({"widen": {"how": "aki"}}, {"ffn": 17}),
     ({"tile_ffn": {}}, {"ffn": 30})],
)  # fmt: skip
def test_old_units_keep_their_state_and_new_ones_have_none(operator, wanted):
    source, state = tiny(), random_state(tiny())
    ((name, options),) = operator.items()
    plain = change_of(source, operator, wanted, state)
    change = change_of(source, {name: {**options, "moments": "new_units"}}, wanted, state)
    units, kept = NewUnits.between(changed_widths(source, change.target), 0), grown(plain, state)
    seen = 0
    for name, record in grown(change, state).items():
        new = units.where(parameter_table(change.target)[name])
        seen += new is not None
        assert record.step == 3000
        assert torch.equal(record.weight, kept[name].weight)
        for moment, whole in zip(record.tensors()[1:], kept[name].tensors()[1:], strict=True):
            assert torch.equal(moment, whole if new is None else torch.where(new, 0.0, whole))
    assert seen > 5


def test_entries_that_are_new_take_adams_first_steps(monkeypatch):
    """In float64, while the others go on from step 1000; taken out some at a time."""
    monkeypatch.setattr(apart, "CHUNK", 7)
    draw = np.random.default_rng(0)
    w, m, v = draw.standard_normal((6, 5)), draw.standard_normal((6, 5)), draw.random((6, 5))
    new = draw.random((6, 5)) < 0.4
    m[new], v[new] = 0, 0
    weight = torch.nn.Parameter(torch.tensor(w))
    optimizer = AdamW([weight], lr=1e-2, betas=BETAS, eps=EPS, weight_decay=0.1, fused=True)
    optimizer.state[weight] = {
        "step": torch.tensor(1000.0), "exp_avg": torch.tensor(m), "exp_avg_sq": torch.tensor(v)
    }  # fmt: skip
    optimizer.new_entries = NewEntries({weight: torch.tensor(new).flatten()})
    for taken in range(4):
        g = draw.standard_normal((6, 5))
        optimizer.new_entries.taken, optimizer.new_entries.lr_factor = taken, 1.5
        weight.grad = torch.tensor(g)
        optimizer.step()
        m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g * g
        w = adamw_weight(w, m, v, np.where(new, taken + 1, 1001 + taken), 1e-2 * np.where(new, 1.5, 1.0), 0.1)
        np.testing.assert_allclose(weight.detach().numpy(), w, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(optimizer.state[weight]["exp_avg"], m, rtol=1e-12)


# ---- in an engine ----


def step_errors(name: str, tp: int, stage: int) -> float:
    """After a change to `WIDE`: the largest error of a weight in two steps, by its learning rate."""
    settings = optimizer_settings(name, tp, stage)
    engine = start(CONFIG, settings)
    train(engine, 0, 3)
    change = shape_change(CONFIG, [make_operator("widen", {"moments": "new_units"})], WIDE)
    engine, _ = move(engine, settings, lambda state: change)
    units = NewUnits.between(changed_widths(CONFIG, change.target), 3)
    mark_new_units(engine, units)
    lr, worst, table = 2e-3, 0.0, parameter_table(change.target)
    for taken, factor in ((0, 2.0), (1, 1.5)):
        before = whole_state(read_state(engine))
        train_new_units(engine, taken, factor)
        train(engine, 3 + taken, 1, lr)
        after = whole_state(read_state(engine))
        for each, spec in table.items():
            new = units.where(spec)
            new = np.zeros(spec.shape, dtype=bool) if new is None else new.numpy()
            rates = (lr if name == "adamw" or is_matrix(each) else 0.4 * lr) * np.where(new, factor, 1.0)
            count = np.where(new, taken + 1, 4 + taken)
            decay = OPTIONS[name].get("weight_decay", 0.01) * spec.decay
            expected = expected_weight(name, each, before[each], after[each], count, rates, decay)
            worst = max(worst, np.abs((after[each].weight.double().numpy() - expected) / rates).max())
    destroy(engine)
    return float(worst)


def expected_weight(optimizer: str, name: str, before: Record, after: Record, count, lr, decay: float):
    w, m = before.weight.double().numpy(), after.exp_avg.double().numpy()
    if optimizer == "muon" and is_matrix(name):
        update = orthogonal(name, 1.95 * m - 0.95 * before.exp_avg.double().numpy())
        return w - lr * (update + decay * w)
    return adamw_weight(w, m, after.exp_avg_sq.double().numpy(), count, lr, decay)


@pytest.mark.parametrize(
    ("name", "tp", "stage"),
    [("adamw", 1, 0), ("adamw", 1, 2), ("adamw", 2, 1), ("adamw", 2, 3), ("muon", 1, 1), ("muon", 2, 3)],
)
def test_a_cell_steps_new_units_like_numpy(name, tp, stage):
    assert max(pool(2).run(step_errors, name, tp, stage)) < 1e-3


def copies_apart(moments: str) -> float:
    """How far FFN units are from what they are exact copies of, after some steps."""
    settings = optimizer_settings("adamw", 1, 1)
    engine = start(CONFIG, settings)
    train(engine, 0, 3)
    change = shape_change(CONFIG, [make_operator("tile_ffn", {"moments": moments})], {"ffn": 144})
    engine, _ = move(engine, settings, lambda state: change)
    if moments == "new_units":
        mark_new_units(engine, NewUnits.between(changed_widths(CONFIG, change.target), 3))
    for taken in range(4):
        if moments == "new_units":
            train_new_units(engine, taken, 1.0)
        train(engine, 3 + taken, 1)
    weight = whole_state(read_state(engine))["blocks.0.feedforward.input.weight"].weight
    destroy(engine)
    return (weight[:72] - weight[72:]).abs().max().item()


def test_copies_part_without_noise():
    (together,), (parted,) = pool(1).run(copies_apart, "transform"), pool(1).run(copies_apart, "new_units")
    assert together < 1e-6
    assert parted > 1e-3


# ---- in a run ----

STAGES = [
    {"name": "narrow", "steps": 5},
    {
        **{"name": "wide", "steps": 6, "grow": {"widen": {"moments": "new_units"}}, "shape": {"ffn": 128}},
        **{"layout": {"tensor_parallel": 2}, "schedule": {"new_units": {"lr_scale": 1.5, "steps": 4}}},
    },
    {"name": "deep", "steps": 2, "grow": "stack", "shape": {"layers": 4}},
]


def test_a_stopped_run_ends_in_the_same_bits(corpus, tmp_path):
    """Before and at the change, while new units have a rate of their own, and where they come to the common count.

    And a checkpoint within the stage grows offline as the run does.
    """
    recipe = tiny_recipe(corpus, stages=STAGES, validation={"rows": 8}, checkpoint={"every": 12, "keep_last": 9})
    pool(2).run(train_run, recipe, tmp_path / "whole")
    for step in (5, 8, 11):
        pool(2).run(train_until, recipe, tmp_path / "parts", step)
    pool(2).run(train_run, recipe, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert same_bits(tmp_path / "parts", tmp_path / "whole")
    before = tmp_path / "whole" / "checkpoints" / "step-00000011"
    assert Progress.from_json(read_index(before)["run"]["progress"]).new_units.since == 5
    pool(1).run(grow, before, ["layers=4"], ["stack"], tmp_path / "offline")
    settled, _ = load_checkpoint(find_checkpoint(tmp_path / "offline"))
    raw, _ = load_checkpoint(before)
    name = "blocks.0.feedforward.output.weight"
    old, new = raw.records[name].exp_avg_sq, settled.records[name].exp_avg_sq
    factor = (1 - 0.98**11) / (1 - 0.98**6)
    assert torch.equal(new[:, :64], old[:, :64])
    torch.testing.assert_close(new[:, 64:], old[:, 64:] * factor)
    assert "new_units" not in read_index(find_checkpoint(tmp_path / "offline"))["run"]["progress"]
    later, _ = load_checkpoint(tmp_path / "whole" / "checkpoints" / "step-00000012")
    least = 0.98 * new[:, 64:] * (1 - 1e-6)  # a step adds a square to it
    assert (later.records[name].exp_avg_sq[:, 64:] >= least).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"grow": {"stack": {"moments": "new_units"}}, "shape": {"layers": 4}},
            "new_units is for widen, tile_ffn and ligo",
        ),
        (
            {"grow": {"ligo": {"moments": "transform"}}, "shape": {"ffn": 128}},
            "moments transform is not for ligo: units that are mixed of all others have no moments yet",
        ),
        ({"grow": "widen"}, "schedule.new_units is for units that begin without state"),
        (
            {"grow": ["stack", {"widen": {"moments": "new_units"}}], "shape": {"layers": 4, "ffn": 128}},
            "no other operator",
        ),
        ({"optimizer": {"name": "lamb", "lr": 1e-3}}, "does not go with lamb, which scales a whole tensor"),
        ({"optimizer": {"name": "lans", "lr": 1e-3}}, "does not go with lans"),
        ({"schedule": {"new_units": {"lr_scale": 1.5}}}, "lr_scale is 1.5 for no steps"),
    ],
)
def test_what_cannot_be_is_refused(corpus, changes, message):
    with pytest.raises(UserError) as error:
        resolve(tiny_recipe(corpus, stages=[STAGES[0], {**STAGES[1], **changes}]), 100, 2)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
