"""The FLOP formula term by term, each compared with what torch counts in the module that computes it; and after every
growth operator."""

from collections import Counter
from itertools import product

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from growth.operators import OPERATORS, make_operator, shapes
from model.batch import Batch
from model.config import BertConfig
from pretrain.cost.flops import MIXING, layer_terms, prediction_flops, sentence_flops, training_flops
from tests.support.running import build, small_config
from tests.support.variants import VARIANTS

ROWS, LENGTH, PER_ROW = 3, 12, 3
DRAWN = {"layer_drop", "sub_models"}
"""Variants that do not run every layer in every step."""


def batch_of(config: BertConfig) -> Batch:
    """Full rows with equally many masked tokens: pooled input counts them."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (ROWS, LENGTH), generator=generator)
    rows = LENGTH * torch.arange(ROWS)
    masked = (rows[:, None] + torch.tensor([2, 5, 9])).flatten()
    pairs = {"sentence_positions": rows, "sentence_labels": torch.zeros(ROWS, dtype=torch.int64)}
    return Batch(ids, masked, ids.flatten()[masked], **(pairs if config.sentence_head else {}))


def counted(config: BertConfig, backward: bool, **progress: int) -> dict[str, Counter]:
    """What torch counts, by module and by operation."""
    model = build(config, dtype=torch.float32).train()
    model.begin_step(**{"step": 0, "steps_masked": 1, "seed": 0, **progress})
    batch = batch_of(config)
    with FlopCounterMode(display=False) as counter:
        loss = model(batch).loss
        if backward:
            loss.backward()
    counts = {module.partition(".")[2]: by_operation for module, by_operation in counter.get_flop_counts().items()}
    counts["whole"] = counts.pop("")
    return {
        module: Counter({str(operation): flops for operation, flops in by_operation.items()})
        for module, by_operation in counts.items()
    }


CASES = {"plain": {}, "pre": {"norm": "pre"}} | {
    name: changes for name, changes in VARIANTS.items() if not DRAWN & changes.keys()
}
cases = pytest.mark.parametrize("changes", CASES.values(), ids=CASES)


@cases
def test_every_term_of_the_forward_pass(changes):
    config = small_config(vocab_size=128, **changes)  # a padded vocabulary would be counted, and is not work
    expected: Counter = Counter()
    for layer in range(config.layers):
        for term, flops in layer_terms(config, layer, LENGTH, PER_ROW).items():
            expected[MIXING if term == MIXING else f"blocks.{config.block_of(layer)}.{term}"] += ROWS * flops
    expected["mlm"] = ROWS * PER_ROW * prediction_flops(config)
    expected["pooler"] = ROWS * 2 * config.hidden**2
    expected["sentence"] = ROWS * sentence_flops(config) - expected["pooler"]
    if config.embedding_size:
        expected["embeddings.projection"] = ROWS * LENGTH * 2 * config.embedding_size * config.hidden

    counts = counted(config, backward=False)
    found = {term: counts[term].total() for term in expected if term != MIXING}
    products = counts["whole"] - sum((counts[term] for term in found), Counter())
    seen = expected.pop(MIXING)
    assert found == expected
    if config.local_attention:  # computed by whole blocks; test_local_attention.py counts what is seen
        assert seen < products.total()
    else:
        assert seen == products.total()
    assert products.keys() <= {"aten.bmm"} | ({"aten.mm"} if config.attention == "favor" else set())


@pytest.mark.parametrize("changes", [{}, {"norm": "pre", "sharing": 1}, {"attention": "elu"}, {"embedding_size": 10}])
def test_the_backward_pass_costs_twice_the_forward_in_every_kind_of_product(changes):
    config = small_config(vocab_size=128, **changes)
    forward, both = (counted(config, backward)["whole"] for backward in (False, True))
    assert both["aten.bmm"] == 3 * forward["aten.bmm"]
    assert both["aten.addmm"] + both["aten.mm"] == 3 * (forward["aten.addmm"] + forward["aten.mm"])


def whole_step(config: BertConfig, **progress: int) -> int:
    return counted(config, backward=True, **progress)["whole"].total()


def formula(config: BertConfig) -> int:
    return training_flops(config, ROWS, LENGTH, ROWS * PER_ROW)


def test_sub_models_cost_the_mean_of_their_depths():
    config = small_config(vocab_size=128, layers=6, sub_models=2)
    costs = {whole_step(config, seed=seed) for seed in range(12)}
    assert len(costs) == config.num_sub_models
    assert sum(costs) / len(costs) == pytest.approx(formula(config), rel=1e-9)


def test_dropped_layers_cost_the_mean_of_their_draws(monkeypatch):
    config = small_config(vocab_size=128, norm="pre", layer_drop={"keep": 0.5, "gamma": 1e9})
    chances = [config.layer_drop.keep_probability(layer, config.layers, 0.5) for layer in range(config.layers)]
    mean = 0.0
    for kept in product((True, False), repeat=config.layers):
        draws = iter(kept)
        monkeypatch.setattr("random.Random.random", lambda self, draws=draws: 0.0 if next(draws) else 1.0)
        chance = 1.0
        for is_kept, keep in zip(kept, chances, strict=True):
            chance *= keep if is_kept else 1 - keep
        mean += chance * whole_step(config)
    assert mean == pytest.approx(formula(config), rel=1e-9)


SMALL = {"layers": 2, "heads": 4, "head_dim": 6}
GROWN: dict[str, tuple[dict, dict]] = {
    "stack": ({}, {"layers": 4}),
    "interleave": ({}, {"layers": 4}),
    "append_top": ({}, {"layers": 3}),
    "identity_layers": ({"norm": "pre"}, {"layers": 3}),
    "fresh_layers": ({"layers": 0}, {"layers": 3}),
    "widen": ({}, {"hidden": 48, "heads": 8, "ffn": (40, 64)}),
    "tile_ffn": ({}, {"ffn": 64}),
    "tile_center": ({}, {"layers": 3, "hidden": 30, "heads": 5, "ffn": 40}),
    "ligo": ({}, {"layers": 3, "hidden": 30, "heads": 5, "ffn": 40}),
    "mask_growth": ({}, {"hidden": 30, "ffn": 40, "layers": 3}),
    "unmask": ({"masked": {"ffn": 20}}, {}),
    "lengthen": ({}, {"max_positions": 32}),
    "unpool": ({"pool_window": 2}, {}),
    "unshare": ({"layers": 4, "sharing": 2}, {}),
    "share": ({"layers": 4}, {"sharing": 2}),
    "densify": ({"low_rank": {"feedforward.input": 5, "attention.query": 3}}, {}),
    "softmax_attention": ({"attention": "elu"}, {}),
    "own_maps": ({"layers": 4, "light_layers": (1, 3)}, {}),
    "prune_heads": ({}, {"heads": 2}),
    "prune_neurons": ({}, {"ffn": (16, 24)}),
    "fold_slimming": ({"slimming": {}}, {}),
    "coalesce": ({"layers": 4}, {"layers": 2, "ffn": 16}),
    "decoalesce": ({}, {"layers": 4, "ffn": 64}),
    "interpolate": ({}, {}),
    "rewind": ({}, {}),
}
"""A source of every operator, and what it is asked for."""
SAME_WORK = ("unmask", "lengthen", "unshare", "share", "fold_slimming", "interpolate", "rewind")


@pytest.mark.parametrize("name", OPERATORS)
def test_the_formula_holds_after_every_operator(name):
    changes, wanted = GROWN[name]
    source = small_config(vocab_size=128, **{**SMALL, **changes})
    operator = make_operator(name, {"checkpoint": "before"} if name == "interpolate" else {})
    grown = shapes(source, [operator], wanted)[-1]
    for config in (source, grown):
        assert whole_step(config) == formula(config)
    assert (formula(grown) == formula(source)) == (name in SAME_WORK)
