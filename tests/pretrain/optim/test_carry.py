"""A stage brings another optimizer: what carries over, against numpy; the move in an engine; and whole runs."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from growth.carry import Averages, carried_over, what_carries
from growth.change import identity
from growth.state import Record
from model.parameters import parameter_table
from pretrain.checkpoint import find_checkpoint, load_checkpoint
from pretrain.engine.exchange import read_state
from pretrain.engine.move import move
from pretrain.engine.zero import destroy
from pretrain.optim import OPTIMIZERS
from pretrain.optim.section import Optimizer
from pretrain.training.train import train as train_run
from tests.support.harness import CONFIG, same, start, train, whole_state
from tests.support.muon_reference import MuonReference, is_matrix, orthogonal, step_error
from tests.support.optim_reference import Reference
from tests.support.proving import grown, tiny
from tests.support.sharded import OPTIONS, optimizer_settings
from tests.support.tiny import metrics, same_bits, tiny_recipe, train_until
from tests.support.workers import pool

STEPS, BETAS = 7, (0.9, 0.98)
SMALL = tiny()
TABLE = parameter_table(SMALL)


def averages(name: str, **changes) -> Averages:
    return Optimizer(**{"betas": BETAS, **OPTIONS[name], **changes}).chosen.averages


def changed(state: dict[str, Record], before: Averages, after: Averages) -> dict[str, Record]:
    return grown(carried_over(identity(SMALL), before, after), state)


def gradients(step: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(step)
    return {name: 0.1 * draw.standard_normal(spec.shape) for name, spec in TABLE.items()}


def state_of(reference) -> dict[str, Record]:
    return {
        name: Record(*(torch.tensor(held[name]) for held in (reference.w, reference.m, reference.v)), reference.t)
        for name in TABLE
    }


def after_lamb() -> Reference:
    """In numpy, after some steps on one gradient. Its moments are AdamW's."""
    zeros = {name: np.zeros(spec.shape) for name, spec in TABLE.items()}
    lamb = Reference(zeros, 0.0, *BETAS, eps=1e-6, decay=0.0, decayed=set(), adapted=set())
    for _ in range(STEPS):
        lamb.lamb(gradients())
    return lamb


@pytest.mark.parametrize("before", ["adamw", "lamb"])
def test_muon_takes_over_the_momentum_that_it_would_have(before):
    """On steady gradients exactly; then both go on alike. As a sum, the momentum is Jordan's."""
    found = changed(state_of(after_lamb()), averages(before), averages("muon", betas=(0.95, 0.999)))
    muon = MuonReference(after_lamb().w, 0.0, 0.0, betas=(0.95, 0.999))
    total = {name: np.zeros(spec.shape) for name, spec in TABLE.items()}
    for _ in range(STEPS):
        muon.step(gradients())
        total = {name: 0.95 * total[name] + gradients()[name] for name in total}
    for name, record in found.items():
        assert record.step == STEPS
        np.testing.assert_allclose(record.exp_avg, muon.m[name], rtol=1e-12)
        if is_matrix(name):
            assert record.exp_avg_sq is None
            np.testing.assert_allclose(record.exp_avg / (1 - 0.95), total[name], rtol=1e-12)
            update = 0.95 * (0.95 * record.exp_avg.numpy() + 0.05 * gradients(1)[name]) + 0.05 * gradients(1)[name]
            jordan = 0.95 * (0.95 * total[name] + gradients(1)[name]) + gradients(1)[name]
            np.testing.assert_allclose(orthogonal(name, update), orthogonal(name, jordan), atol=1e-10)
        else:
            np.testing.assert_allclose(record.exp_avg_sq, muon.v[name], rtol=1e-12)


def test_on_the_way_back_only_the_matrices_start_over():
    """As fresh parameters do: their first update is Adam's first, which no carried moment makes larger."""
    with_muon = changed(state_of(after_lamb()), averages("adamw"), averages("muon"))
    back = changed(with_muon, averages("muon"), averages("lamb"))
    for name, record in back.items():
        if is_matrix(name):
            assert record.step == 0 and not record.exp_avg.any() and not record.exp_avg_sq.any()
        else:
            assert record.step == STEPS
            assert torch.equal(record.exp_avg_sq, with_muon[name].exp_avg_sq)


@pytest.mark.parametrize(("before", "after"), [("lans", "muon"), ("nvlamb", "adamw"), ("adamw", "lans")])
def test_what_averages_something_else_starts_over(before, after):
    for record in changed(state_of(after_lamb()), averages(before), averages(after)).values():
        assert record.step == 0
        assert not any(moment.any() for moment in record.tensors()[1:])


def test_the_same_settings_carry_the_same_bits():
    state = state_of(after_lamb())
    assert same(changed(state, averages("adamw"), averages("lamb")), state)
    assert same(changed(state, averages("adamw"), averages("stableadamw")), state)


def test_every_optimizer_has_a_decay_rate_for_each_moment_that_it_keeps():
    for options in OPTIMIZERS:
        chosen = Optimizer(name=options.name, lr=1e-3).chosen
        for spec in TABLE.values():
            assert len(chosen.decay_rates(spec)) == len(chosen.group_rules.moments_of(spec))


def test_what_carries_in_words():
    matrices, others = sum(map(is_matrix, TABLE)), sum(not is_matrix(name) for name in TABLE)
    there = f"both moments of {others} tensors and the first of {matrices} carry over"
    back = f"both moments of {others} tensors carry over, {matrices} start over at step 0"
    assert what_carries(SMALL, averages("adamw"), averages("muon")) == there
    assert what_carries(SMALL, averages("muon"), averages("adamw")) == back
    assert what_carries(SMALL, averages("lans"), averages("lamb")) == f"{len(TABLE)} start over at step 0"


# ---- in an engine ----

CHAINS = {
    "2 ranks": (2, [("adamw", 1, 1), ("muon", 2, 3), ("adamw", 1, 2), ("muon", 1, 0)]),
    "4 ranks": (4, [("lamb", 2, 0), ("muon", 2, 1), ("lamb", 4, 3)]),
}


def hop(chain: list[tuple[str, int, int]]) -> list[tuple[bool, float]]:
    """From one optimizer, layout and ZeRO stage to the next: whether the state is the changed one, bit for bit, and how
    far the next step is from numpy's."""
    found, engine = [], start(CONFIG, optimizer_settings(*chain[0]))
    train(engine, 0, 3)
    for number, (old, new) in enumerate(pairwise(chain)):
        before = whole_state(read_state(engine))
        change = carried_over(identity(CONFIG), averages(old[0]), averages(new[0]))
        engine, _ = move(engine, optimizer_settings(*new), lambda state, change=change: change)
        moved = whole_state(read_state(engine))
        lr, decay = OPTIONS[new[0]]["lr"], OPTIONS[new[0]].get("weight_decay", 0.01)
        train(engine, 3 + number, 1, lr)
        after = whole_state(read_state(engine))
        is_as_changed = same({name: change.record(name, before.__getitem__) for name in before}, moved)
        error = {"muon": step_error, "adamw": first_adam_error, "lamb": lambda *_: 0.0}[new[0]](moved, after, lr, decay)
        found.append((is_as_changed, float(error)))
    destroy(engine)
    return found


def first_adam_error(before: dict[str, Record], after: dict[str, Record], lr: float, decay: float) -> float:
    """Of a first step on fresh matrices: sign(g), as nearly as eps lets it."""
    worst = 0.0
    for name in filter(is_matrix, before):
        g = after[name].exp_avg.double().numpy() / (1 - BETAS[0])
        w = before[name].weight.double().numpy()
        expected = w - lr * (g / (np.abs(g) + 1e-6) + decay * w)
        worst = max(worst, np.abs(after[name].weight.double().numpy() - expected).max() / lr)
    return worst


@pytest.mark.parametrize("chain", CHAINS)
def test_an_engine_takes_over_what_the_rule_says(chain):
    ranks, hops = CHAINS[chain]
    for found in pool(ranks).run(hop, hops):
        for is_as_changed, error in found:
            assert is_as_changed
            assert error < 1e-4


# ---- in a run ----

MUON = {"name": "muon", "lr": 1e-2, "betas": [0.9, 0.98], "fallback": {"lr_factor": 0.3}}
STAGES = [
    {"name": "begin", "steps": 5},
    {
        **{"name": "muon", "steps": 5, "optimizer": MUON, "layout": {"tensor_parallel": 2}},
        **{"deepspeed": "ds_configs/zero3.json", "grow": "unshare"},
    },
    {
        **{"name": "back", "steps": 4, "optimizer": {"name": "lans", "lr": 1e-2, "betas": [0.9, 0.98]}},
        **{"layout": {"tensor_parallel": 1}, "deepspeed": "ds_configs/zero2.json"},
    },
]


@cache
def recipe_of(corpus):
    return tiny_recipe(corpus, stages=STAGES, schedule={"shape": "constant"}, validation={"rows": 8})


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    pool(2).run(train_run, recipe_of(corpus), folder)
    return folder


def test_a_stop_before_at_or_after_a_change_of_optimizer_changes_nothing(corpus, tmp_path, whole):
    for step in (4, 5, 6, 10):
        pool(2).run(train_until, recipe_of(corpus), tmp_path / "parts", step)
    pool(2).run(train_run, recipe_of(corpus), tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(whole)
    assert same_bits(tmp_path / "parts", whole)


def test_a_run_says_what_it_changed(whole):
    lines = metrics(whole)
    changes = [line for line in lines if line.get("event") == "growth"]
    assert [line["operator"] for line in changes] == ["unshare+adamw_to_muon", "muon_to_lans"]
    assert changes[1]["loss_after"] == pytest.approx(changes[1]["loss_before"], rel=1e-5)
    sized = {line["step"] for line in lines if line.get("event") == "update_size"}
    assert {5, 6, 10, 11} <= sized
    rates = {line["stage"]: line["lr"] for line in lines if "event" not in line}
    assert rates == {"begin": 3e-3, "muon": pytest.approx(1e-2), "back": pytest.approx(1e-2)}
    state, _ = load_checkpoint(find_checkpoint(whole))
    assert set(state.steps.values()) == {4}, "LANS averages something else: all start over"
