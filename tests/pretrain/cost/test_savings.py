"""What `plan` says a method saves: the formula's figures, and how far they are from the papers'."""

import io
from dataclasses import replace
from math import prod
from unittest.mock import patch

import pytest
from rich.console import Console

from pretrain.cost.flops import training_flops
from pretrain.cost.plan import print_plan
from pretrain.cost.savings import changes_shape, compare_costs, stage_flops, target_config, target_flops
from pretrain.recipe import load_recipe, resolve

ENCODER_ALONE = ["data.mask_rate=1e-6", "sequence=128", "data.sentence_pairs=none"]
"""Overrides: the vocabulary and predictions cost next to nothing."""


def run_of(name, overrides=()):
    return resolve(load_recipe(name, overrides), corpus_vocab_size=None, num_ranks=8)


@pytest.mark.parametrize(
    ("name", "formula", "paper"),
    [
        ("compound-base", 1.02, 1.071),
        ("compound-large", 1.08, 1.114),
        ("stack-base", 0.69, 0.687),
        ("stack-large", 0.72, 0.707),
    ],
)
def test_compound_growth_saves_what_the_paper_says_within_a_few_points(name, formula, paper):
    run = run_of(name)
    assert compare_costs(run).speedup == pytest.approx(formula, abs=0.01)
    assert run.recipe.paper.flop_speedup == paper
    assert abs(compare_costs(run).speedup - paper) < 0.06


def parts(run):
    """A step of each stage as a part of the target's."""
    target = target_config(run)
    return [stage_flops(stage) / target_flops(run, stage, target) for stage in run.stages]


def test_frozen_layers_cost_no_backward_pass():
    """Encoder alone (vocabulary and predictions next to none): (n + 2 * 3) / (3 * 12) of a step with n of 12 layers,
    3 of them trained; with post-LN the lowest trained layer passes no gradient on, which spares a little more."""
    run = run_of("mslt-base", ENCODER_ALONE)
    assert parts(run) == pytest.approx([0.25, 1 / 3, 5 / 12, 0.5, 1], abs=0.011)
    assert parts(run_of("mslt-base")) == pytest.approx([0.278, 0.340, 0.420, 0.500, 1], abs=0.001)


def test_incremental_training_costs_what_the_paper_says():
    """(S + 2) / 3S of the target; (3S + 5) / 8S where a backward pass counts like a forward one."""
    run = run_of("incremental-base", ENCODER_ALONE)
    shares = [stage.length / run.stages[-1].end for stage in run.stages]
    depths = [stage.config.layers / 12 for stage in run.stages]
    costs = parts(run)
    trained = [(3 * cost - depth) / 2 for cost, depth in zip(costs, depths, strict=True)]
    evenly = [(depth + part) / 2 for depth, part in zip(depths, trained, strict=True)]
    assert sum(map(prod, zip(shares, costs, strict=True))) == pytest.approx((4 + 2) / (3 * 4), abs=0.01)
    assert sum(map(prod, zip(shares, evenly, strict=True))) == pytest.approx((3 * 4 + 5) / (8 * 4), abs=0.01)


def test_one_late_hop_costs_what_is_left_of_the_run():
    """A fifth of it, which is the paper's figure, and the steps with one layer of twelve."""
    for method, cost in (("zero-layer", 0.2), ("one-layer", 0.2 + 0.8 / 12)):
        assert compare_costs(run_of(f"{method}-base", ENCODER_ALONE)).speedup == pytest.approx(1 / cost - 1, abs=1e-3)
    assert run_of("zero-layer-large").recipe.paper.flop_speedup == 1 / 0.2 - 1


def test_sharing_saves_nothing_in_a_step():
    for name in ("swe-f-base", "swe-f-large", "swe-units-large", "swe-a-large"):
        assert compare_costs(run_of(name)).speedup == 0
        assert parts(run_of(name)) == [1, 1]


def test_stackbert_costs_what_its_stages_do():
    """0.125 / 4 + 0.175 / 2 + 0.7 = 0.819 of the encoder's work: +22%, and the head's share less."""
    run = run_of("stackbert-base", ["data.mask_rate=1e-6", "data.sentence_pairs=none"])
    assert compare_costs(run).speedup == pytest.approx(1 / 0.81875 - 1, abs=1e-3)


def test_shorter_rows_are_told_apart_from_a_smaller_shape():
    found = compare_costs(run_of("truncate-base"))
    assert found.speedup == 0
    assert found.full_length_speedup == pytest.approx(1 / (0.7 * 0.476 + 0.3) - 1, abs=2e-3)


def test_dropped_layers_save_a_quarter_of_a_step():
    """Mean keep 1 - 0.5 * 13 / 24 = 0.73 of the encoder in the end."""
    (part,) = parts(run_of("pld-base", ["data.mask_rate=1e-6", "data.sentence_pairs=none"]))
    assert part == pytest.approx(1 - 0.5 * 13 / 24, abs=1e-3)


def test_token_dropping_saves_what_the_paper_says_within_a_point():
    """Of 12 layers 6 are whole, 5 have half of the tokens, one half of the queries."""
    run = run_of("token-drop-base")
    assert compare_costs(run).speedup == pytest.approx(0.324, abs=0.001)
    assert run.recipe.paper.flop_speedup == pytest.approx(1 / 0.75 - 1, abs=0.001)


def test_a_plain_run_has_nothing_to_save():
    assert not changes_shape(run_of("base"))
    assert not changes_shape(run_of("lamb-large"))


def printed(name):
    out = io.StringIO()
    print_plan(run_of(name), on_cpu=True, console=Console(file=out, width=400))
    return out.getvalue()


def test_plan_prints_formula_paper_and_gap():
    text = printed("compound-base")
    assert "+101.9% on the same rows" in text
    assert "paper: +107.1% FLOPs (the formula is -5.2 points off); +73.6% in time [Gu et al. 2021" in text
    assert "F = 6 N s + 12 L h s^2 + 6 P (h^2 + V h) for a row of s tokens with P predictions (76.8 in 512)" in text
    assert "+0.0% on the same rows" in printed("swe-f-large")
    short_rows = "+328.9% if short rows count as savings, too (all rows of the target have 512 tokens)"
    assert short_rows in printed("espalier-large")
    assert "FLOPs compared" not in printed("base")
    assert "FLOPs compared" not in printed("academic-large")


def test_the_target_of_a_long_run_is_worked_out_once():
    """Not once for each of its stages, which made `plan` take a minute for 200 of them."""
    run = run_of("mini")
    (stage,) = run.stages[:1]
    long = replace(run, stages=tuple(replace(stage, index=index) for index in range(50)))
    with patch("pretrain.cost.savings.training_flops", wraps=training_flops) as counted:
        assert not changes_shape(long)
    assert counted.call_count == 1
