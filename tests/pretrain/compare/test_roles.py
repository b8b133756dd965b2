"""Which runs are the baseline, which are methods, and which are seeds of one recipe."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.config import BertConfig
from model.errors import UserError
from pretrain.compare.roles import Contender, contenders, sizes_from_scratch
from pretrain.compare.run_files import Before
from pretrain.compare.runs import FinishedRun
from pretrain.recipe import resolve
from tests.support.made_up import VALIDATION, made_up_recipe


def run(name: str, steps: int = 100, seed: int = 0, folder: str = "", **changes: Any) -> FinishedRun:
    """What such a recipe would leave behind. The shape and its FLOPs a token are those of its last stage."""
    recipe = made_up_recipe(name, steps, seed, **changes)
    shape: BertConfig = resolve(recipe, None, 1).stages[-1].config
    costs = {"flops": steps * shape.layers * shape.hidden, "tokens": steps, "seconds": steps, "device_seconds": steps}
    return FinishedRun(
        Path(folder or f"{name}-{steps}-{seed}"), recipe, shape.summary(), VALIDATION, 5.0, 0.5, costs, (), ()
    )


def roles(runs: list[FinishedRun], *baseline: str) -> dict[str, str]:
    return {contender.name: contender.role for contender in contenders(runs, baseline)}


def stages(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": str(index), "steps": 50} | change for index, change in enumerate(changes)]


GROWN = stages({"shape": {"layers": 2}}, {"grow": "stack", "shape": {"layers": 4}})
SCRATCH = [run("full-50", 50), run("full-100", 100)]
METHODS = {
    "grown": {"stages": GROWN},
    "pruned": {"stages": stages({}, {"grow": "prune_heads", "shape": {"heads": 1}})},
    "short rows first": {"stages": stages({"sequence": "50%"}, {"sequence": "100%"})},
    "two phases": {"stages": stages({}, {"schedule": {"restart": {"lr": 1e-4}}})},
    "dropped layers": {"model": {"norm": "pre", "layer_drop": {"keep": 0.5}}},
    "a shared block": {"model": {"sharing": 1}},
    "split": {"model": {"sharing": 1}, "stages": [{"name": "all", "split": {"every": 1}}]},
    "factorised": {"model": {"embedding_size": 32}},
    "from a checkpoint": {"start": "elsewhere"},
    "short rows only": {"sequence": 64},
}


@pytest.mark.parametrize("name", METHODS)
def test_from_scratch_is_the_target_in_one_stage(name):
    changed = run(name.replace(" ", "-"), **METHODS[name])
    found = roles([*SCRATCH, run("stacked", stages=GROWN), changed])
    assert found == {"full-50": "from scratch", "full-100": "from scratch", "stacked": "method", changed.name: "method"}


def continuing(first: FinishedRun, steps: int, seed: int = 0, hours: float = 2.0, **changes: Any) -> FinishedRun:
    """A decay that takes on the state of `first`, with its costs."""
    own = run(f"after-{steps}", steps, seed, start="wherever", start_with="state", **changes)
    costs = {"num_tokens": 1, "flops": 1, "train_seconds": 3600 * hours, "seconds": 1, "device_seconds": 1}
    return replace(own, before=Before(recipes=[first.recipe], steps=90, was_grown=False, **costs))


def test_a_decay_is_from_scratch_if_what_it_continues_is_and_goes_the_same_way():
    peak = run("peak", schedule={"shape": "constant"})
    decay, other = continuing(peak, 10), continuing(peak, 20, optimizer={"name": "lans", "lr": 1e-3})
    grown, imported = run("grown", stages=GROWN), run("imported", start="elsewhere")
    after_growth, after_import = continuing(grown, 30), continuing(imported, 40)
    by_hand = continuing(run("small", model={"layers": 2}), 50)
    by_hand = replace(by_hand, before=by_hand.before.model_copy(update={"was_grown": True}))
    unknown = run("unknown", 60, start="wherever", start_with="state")  # of an earlier version
    methods = [other, after_growth, after_import, by_hand, unknown]
    found = roles([decay, *methods])
    assert decay.budget == "100 steps"
    assert found == {decay.name: "from scratch"} | {each.name: "method" for each in methods}
    assert {each.name for each in sizes_from_scratch(contenders([decay, *methods]))} == {decay.name}


def test_decays_of_runs_by_the_clock_are_one_budget_for_all_seeds():
    """Which have taken as long, but not as many steps."""
    peak = run("peak")
    peak = replace(peak, recipe=peak.recipe.model_copy(update={"steps": None, "hours": 2.0}))
    assert [continuing(peak, 10, seed, 2 + seed / 3600).budget for seed in (0, 1)] == ["10 steps after 2 hours"] * 2


def test_small_is_what_the_baseline_does_in_another_size():
    small = run(
        "small", 300, model={"layers": 2, "hidden": 64, "ffn": 256}, optimizer={"lr": 5e-3}, schedule={"warmup": 5}
    )
    assert roles([*SCRATCH, run("grown", stages=GROWN), small])["small"] == "small"


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": 64},
        {"data": {"corpus": "none", "mask_rate": 0.3}},  # its loss is that of another task
        {"data": {"corpus": "none", "sentence_pairs": "nsp"}},
        {"optimizer": {"name": "lamb", "lr": 1e-3}},
        {"batch": {"global": 8}},
    ],
)
def test_a_small_model_that_does_otherwise_is_a_method(changes):
    other = run("other", 300, model={"layers": 2}, **changes)
    assert roles([*SCRATCH, run("grown", stages=GROWN), other])["other"] == "method"


def test_a_larger_model_is_not_small():
    large = run("large", 30, model={"layers": 8})
    assert roles([*SCRATCH, run("grown", stages=GROWN), large])["large"] == "method"


def test_without_a_change_the_target_is_the_dearest_model():
    small = run("small", 900, model={"layers": 2})
    assert roles([small, *SCRATCH]) == {"small": "small", "full-50": "from scratch", "full-100": "from scratch"}


def test_two_ways_from_scratch_are_told_apart_by_name():
    runs = [*SCRATCH, run("grown", stages=GROWN), run("other", optimizer={"lr": 2e-3})]
    with pytest.raises(UserError, match=r"\(full-100; full-50; other\); name the one to measure against by --baseline"):
        contenders(runs)
    assert roles(runs, "full-50", "full-100")["other"] == "method"
    assert roles(runs, "other") == {
        "full-50": "method",
        "full-100": "method",
        "grown": "method",
        "other": "from scratch",
    }
    with pytest.raises(
        UserError, match=r"baseline 'ful-50': no run of that recipe \(did you mean 'full-50'\?\); there are"
    ):
        contenders(runs, ["ful-50"])


def test_a_baseline_of_two_lengths_is_named():
    """As BERT itself was trained. A small model that does the same is still a small one."""
    lengths = [{"sequence": "25%"}, {"sequence": "100%"}]
    bert = run("bert", stages=stages(*lengths))
    small = run("half", stages=stages({"shape": {"layers": 2}} | lengths[0], lengths[1]))
    grown = run("grown", stages=GROWN)
    with pytest.raises(UserError, match=r"4x128.*rows of 128\) from scratch, in one stage; add one.*by --baseline"):
        contenders([bert, small, grown])
    assert roles([bert, small, grown], "bert") == {"bert": "from scratch", "half": "small", "grown": "method"}


def test_a_target_that_is_not_there_or_not_one():
    with pytest.raises(UserError, match="compare needs runs"):
        contenders([])
    with pytest.raises(UserError, match="from scratch, in one stage; add one"):
        contenders([run("grown", stages=GROWN)])
    wide = run("wide", stages=stages({}, {"grow": "widen", "shape": {"hidden": 256, "heads": 4, "ffn": 1024}}))
    both = [*SCRATCH, run("grown", stages=GROWN), wide, run("big", model={"hidden": 256, "heads": 4, "ffn": 1024})]
    with pytest.raises(UserError, match="end in different targets"):
        contenders(both)


def test_variants_of_a_method_are_told_apart_by_name_and_seeds_are_one():
    kept, reset = ({"grow": {"stack": {"moments": how}}, "shape": {"layers": 4}} for how in ("copy", "reset"))
    runs = [
        *SCRATCH,
        *(run("stack-copy", seed=seed, stages=stages(GROWN[0], kept)) for seed in (2, 0, 1)),
        *(run("stack-reset", seed=seed, stages=stages(GROWN[0], reset)) for seed in (0, 1)),
    ]
    found = {contender.name: contender for contender in contenders(runs)}
    assert [each.seed for each in found["stack-copy"].runs] == [0, 1, 2]
    assert [each.seed for each in found["stack-reset"].runs] == [0, 1]


def test_the_same_settings_under_two_names_are_two_methods():
    found = contenders([*SCRATCH, run("one", stages=GROWN), run("other", stages=GROWN)])
    assert [contender.name for contender in found] == ["full-50", "full-100", "one", "other"]


def test_budgets_of_one_recipe_are_told_apart():
    runs = [run("mini", steps, seed) for steps in (1000, 2000) for seed in (0, 1)]
    found: list[Contender] = contenders([*runs, run("grown", stages=GROWN)])
    assert [contender.name for contender in found] == ["mini, 1,000 steps", "mini, 2,000 steps", "grown"]
    assert [len(contender.runs) for contender in found] == [2, 2, 1]


def test_where_and_how_it_was_computed_makes_no_other_recipe():
    moved = run("full-50", 50, seed=1, deepspeed="ds_configs/zero2.json", validation={"every": 7})
    assert len(contenders([*SCRATCH, moved, run("grown", stages=GROWN)])[0].runs) == 2


def test_two_recipes_under_one_name_are_no_seeds():
    other = run("full-50", 50, seed=1, folder="runs/other", optimizer={"lr": 2e-3})
    with pytest.raises(
        UserError, match=r"full-50-50-0 and runs/other are both full-50 at 50 steps, but their optimizer"
    ):
        contenders([*SCRATCH, other], ["full-50"])
    for seeds in ((0, 1), (1, 0)):
        plain, started = run("full-50", 50, seeds[0]), run("full-50", 50, seeds[1], start="elsewhere")
        with pytest.raises(UserError, match="but their start differ"):
            contenders([plain, started], ["full-50"])
    with pytest.raises(UserError, match="are both seed 0 of full-50 at 50 steps; leave one out"):
        contenders([*SCRATCH, run("full-50", 50, folder="runs/again")])


def test_a_folder_without_a_finished_run(tmp_path):
    with pytest.raises(UserError, match="is not a finished run"):
        FinishedRun.read(tmp_path)
