"""Recipes: what is written is what runs, and every mistake is one line that names the thing and the way out."""

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from model.errors import UserError
from pretrain.cost.plan import plan_tables
from pretrain.recipe import Recipe, load_recipe, resolve
from pretrain.recipe.checks.stage_rules import check_lengths
from pretrain.recipe.library import shipped_names
from pretrain.recipe.shares import counted, counted_steps
from pretrain.recipe.timeline import timeline
from pretrain.settings.values import Share
from pretrain.settings.yaml_text import parse
from tests.support.made_up import made_up_recipe

RECIPE = """
name: tiny
steps: 100
model: {preset: tiny, max_positions: 64}
data: {corpus: corpora/tiny}
optimizer: {lr: 1e-3}
schedule: {warmup: 10%}
batch: {global: 32, micro: 4}
sequence: 64
stages:
  - {name: tied, steps: 30%, shape: {sharing: 1}}
  - {name: untied, steps: 30, grow: unshare, batch: {global: 64}, schedule: {rewarm: 5%, lr_scale: 0.5}}
  - {name: deep, grow: stack, shape: {layers: 4}, deepspeed: ds_configs/zero3.json, layout: {tensor_parallel: 2}}
"""


@pytest.fixture
def recipe_file(tmp_path):
    """Writes RECIPE with one line replaced, and returns its path."""

    def write(old: str = "", new: str = "") -> str:
        assert old in RECIPE
        file = tmp_path / "recipe.yaml"
        file.write_text(RECIPE.replace(old, new) if old else RECIPE)
        return str(file)

    return write


def test_stages_inherit_what_they_do_not_say(recipe_file):
    run = resolve(load_recipe(recipe_file()), corpus_vocab_size=1000, num_ranks=4)
    tied, untied, deep = run.stages
    assert [(stage.start, stage.end) for stage in run.stages] == [(0, 30), (30, 60), (60, 100)]
    assert (tied.config.num_blocks, untied.config.num_blocks, deep.config.num_blocks) == (1, 2, 4)
    assert {stage.config.vocab_size for stage in run.stages} == {1000}
    assert [(stage.global_batch, stage.micro_batch, stage.accumulation) for stage in run.stages] == [
        (32, 4, 2),
        (64, 4, 4),
        (64, 4, 8),
    ]
    assert [(stage.zero_stage, stage.tensor_parallel, stage.data_parallel) for stage in run.stages] == [
        (1, 1, 4),
        (1, 1, 4),
        (3, 2, 2),
    ]
    file = recipe_file("{lr: 1e-3}", "{lr: 1e-3}\nlayout: {sequence_parallel: true}")
    stages = resolve(load_recipe(file), corpus_vocab_size=1000, num_ranks=4).stages
    assert [stage.sequence_parallel for stage in stages] == [False, False, True], "one rank alone divides nothing"
    assert [[operator.name for operator in stage.grow] for stage in run.stages] == [[], ["unshare"], ["stack"]]
    assert (run.unit, run.end) == ("steps", 100)


def test_auto_finds_the_operators(recipe_file):
    file = recipe_file("grow: stack, shape: {layers: 4}", "grow: auto, shape: {layers: 4, ffn: 1024}")
    run = resolve(load_recipe(file), corpus_vocab_size=1000, num_ranks=4)
    assert [operator.name for operator in run.stages[-1].grow] == ["stack", "widen"]
    mixed = recipe_file("grow: stack, shape", "grow: [auto, stack], shape")
    with pytest.raises(UserError, match="grow auto cannot be combined"):
        resolve(load_recipe(mixed), corpus_vocab_size=1000, num_ranks=4)


def test_schedule_spans_the_run_and_the_stages_bend_it(recipe_file):
    rate = resolve(load_recipe(recipe_file()), 1000, 4).learning_rate
    assert rate(9) == pytest.approx(1e-3)
    assert rate(29) == pytest.approx(1e-3 * 71 / 90)
    assert rate(30) == pytest.approx(1e-3 * 70 / 90 * 0.5 / 5)
    assert rate(59) == pytest.approx(1e-3 * 41 / 90 * 0.5)
    assert rate(60) == pytest.approx(1e-3 * 40 / 90)


def test_decay_begins_at_its_length_before_the_end(recipe_file):
    rate = resolve(
        load_recipe(recipe_file("{warmup: 10%}", "{shape: sqrt, warmup: 10%, decay: 20}")), 1000, 4
    ).learning_rate
    assert rate(9) == rate(79) == rate(80) == pytest.approx(1e-3)
    assert rate(85) == pytest.approx(1e-3 / 2)


def test_restart_begins_a_second_phase_with_its_own_peak(recipe_file):
    file = recipe_file(
        "deepspeed: ds_configs/zero3.json", "schedule: {restart: {lr: 4e-4, warmup: 25%, shape: cosine}}"
    )
    rate = resolve(load_recipe(file), 1000, 4).learning_rate
    assert rate(5) == pytest.approx(1e-3)  # 10% of the first sixty steps
    assert rate(59) == pytest.approx(1e-3 / 54 * 0.5)
    assert rate(60) == pytest.approx(4e-4 / 10)  # 25% of the forty steps that are left
    assert rate(69) == rate(70) == pytest.approx(4e-4)


def test_a_stage_brings_its_own_optimizer_and_the_schedule_goes_on(recipe_file):
    own = "optimizer: {name: muon, lr: 2e-2}"
    run = resolve(load_recipe(recipe_file("deepspeed: ds_configs/zero3.json", own)), 1000, 4)
    assert [stage.optimizer.chosen.name for stage in run.stages] == ["adamw", "adamw", "muon"]
    assert run.learning_rate(59) == pytest.approx(1e-3 * 41 / 90 * 0.5)
    assert run.learning_rate(60) == pytest.approx(2e-2 * 40 / 90)
    (rules,) = (part.plain for part in plan_tables(run).renderables if "adamw -> muon" in getattr(part, "plain", ""))
    assert "deep: adamw -> muon: both moments of" in rules
    anew = f"{own}, schedule: {{restart: {{warmup: 25%}}}}"
    restarted = resolve(load_recipe(recipe_file("deepspeed: ds_configs/zero3.json", anew)), 1000, 4)
    assert restarted.learning_rate(69) == restarted.learning_rate(70) == pytest.approx(2e-2)
    last = resolve(load_recipe(recipe_file("steps: 30%", f"steps: 30%, {own}")), 1000, 4)
    assert {stage.optimizer.chosen.name for stage in last.stages} == {"muon"}, "stages inherit it"
    assert last.learning_rate(9) == pytest.approx(2e-2)


def test_overrides_by_index_and_by_name(recipe_file):
    recipe = load_recipe(recipe_file(), ["stages.1.steps=20", "stages.deep.shape.ffn=1024", "model.norm=pre", "seed=7"])
    assert recipe.stages[1].steps == 20
    assert recipe.stages[2].shape.asked == {"layers": 4, "ffn": 1024}
    assert recipe.model["norm"] == "pre"
    assert recipe.seed == 7


def test_a_budget_in_hours_puts_stages_and_schedule_on_the_clock(recipe_file):
    file = recipe_file("steps: 100", "hours: 2")
    overrides = [
        "stages.tied.steps=null",
        "stages.tied.hours=0.5",
        "stages.untied.steps=null",
        "stages.untied.hours=25%",
    ]
    run = resolve(load_recipe(file, overrides), 1000, 4)
    assert run.unit == "seconds"
    assert [(stage.start, stage.end) for stage in run.stages] == [(0, 1800), (1800, 3600), (3600, 7200)]
    assert run.learning_rate(359) == pytest.approx(0.5e-3)
    assert run.learning_rate(719.5) == run.learning_rate(720) == pytest.approx(1e-3)
    assert run.learning_rate(720 + 6480 / 2 + 360) == pytest.approx(1e-3 * (7200 - 4320) / 6480)
    assert run.learning_rate(1800) == pytest.approx(1e-3 * 5400 / 6480 * 0.5 / 360)


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_recipes_resolve_and_plan(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.model_validate_json(recipe.model_dump_json(by_alias=True)) == recipe, "a saved recipe is the same"
    for num_ranks in (2, 8):
        run = resolve(recipe, corpus_vocab_size=None, num_ranks=num_ranks)
        check_lengths(run)
        assert all(run.learning_rate(tick) > 0 for stage in run.stages for tick in (stage.start, stage.end - 1))
    plan_tables(run)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.integers(100, 100_000))
def test_shares_cover_the_run_without_gap_or_overlap(weights, total):
    shares = [100 * weight / sum(weights) for weight in weights]
    values = yaml.safe_load(RECIPE) | {
        "steps": total,
        "stages": [{"name": f"s{index}", "steps": f"{share!r}%"} for index, share in enumerate(shares)],
    }
    values["optimizer"] = {"lr": 1e-3}
    assume(min(shares) / 100 * total >= 1)
    clock = timeline(Recipe.model_validate(values))
    starts = [*clock.starts, clock.end]
    assert clock.unit == "steps"
    assert starts[0] == 0
    assert starts[-1] == total
    assert all(
        abs(end - start - share / 100 * total) <= 1
        for start, end, share in zip(starts[:-1], starts[1:], shares, strict=True)
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6e-3", 6e-3), ("28_000", 28000), ("1e4", 1e4), ("-2.5", -2.5), (".5", 0.5), ("010", 10), ("no", "no"),
        ("1:30", "1:30"), ("28%", "28%"), ("true", True), ("null", None), ("[1, 2e0]", [1, 2.0]),
    ],
)  # fmt: skip
def test_numbers_are_numbers_and_words_are_words(text, value):
    parsed = parse(text, "test")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schedule: {warmup", "schedul: {warmup", "unknown key schedul (did you mean 'schedule'?); allowed here: name"),
        ("{warmup: 10%}", "{warmpu: 10%}", "unknown key schedule.warmpu (did you mean 'warmup'?)"),
        ("grow: unshare", "gorw: unshare", "unknown key stages.1.gorw (did you mean 'grow'?)"),
        ("max_positions: 64", "max_position: 64", "unknown key model.max_position (did you mean 'max_positions'?)"),
        ("{layers: 4}", "{layer: 4}", "unknown key stages.2.shape.layer (did you mean 'layers'?)"),
        ("preset: tiny", "preset: tyni", "model.preset 'tyni' is unknown (did you mean 'tiny'?)"),
        ("lr: 1e-3", "lr: fast", "optimizer.lr is 'fast': input should be a valid number"),
        ("lr: 1e-3", "lr: -1", "optimizer.lr is -1: input should be greater than 0"),
        ("lr: 1e-3", "name: adamw", "optimizer.lr is missing"),
        ("layout: {tensor", "optimizer: {lr: 1e-2}, layout: {tensor", "stages.2.optimizer: has no name; write all"),
        ("layout: {tensor", "optimizer: {name: muon}, layout: {tensor", "stages.2.optimizer.lr is missing"),
        (
            "layout: {tensor",
            "optimizer: {name: lamb, lr: 1e-3, momentum: 0.9}, layout: {tensor",
            "stages.2.optimizer: momentum is for muon, not for lamb; remove it",
        ),
        (
            "warmup: 10%",
            "warmup: often",
            "schedule.warmup: 'often' is neither a count from 0 nor a share from 0% to 100%",
        ),
        ("warmup: 10%", "warmup: 110", "schedule: warmup (110) and hold (0) take longer than the 100 steps"),
        ("warmup: 10%", "decay: 10%, hold: 5", "schedule: hold and decay both say when the decay begins"),
        (
            "warmup: 10%",
            "warmup: 10%, decay: 95",
            "schedule: warmup (10) and decay (95) take longer than the 100 steps",
        ),
        ("steps: 30%", "steps: 80%", "stage deep has no time left: the other stages take 110 of 100 steps; shorten"),
        ("steps: 100", "seed: 1", "steps is missing"),
        ("steps: 100", "steps: 100\nhours: 2", "steps 100 and hours 2 both measure the run; give one"),
        ("steps: 100", "hours: 2", "stage tied is measured in steps, the run in hours; use hours for both"),
        ("steps: 30,", "hours: 1,", "stage untied is measured in hours, the run in steps; use steps for both"),
        ("name: deep", "name: tied", "two stages are named 'tied'"),
        ("grow: unshare", "grow: unshair", "stage untied: grow 'unshair' is unknown (did you mean 'unshare'?)"),
        (
            "grow: unshare",
            "grow: {unshare: {momnts: copy}}",
            "unknown key grow.unshare.momnts (did you mean 'moments'?)",
        ),
        (
            "grow: unshare",
            "shape: {ffn: 64}",
            "stage untied: ffn 512 -> 64 is not reached by grow; add prune_neurons to grow",
        ),
        ("sequence: 64", "sequence: 128", "stage tied: sequence 128 is longer than model.max_positions 64"),
        ("micro: 4", "micro: 3", "is 8 rows each, not a multiple of batch.micro 3"),
        ("global: 32", "global: 34", "batch.global 34 is not a multiple of the 4 data-parallel ranks"),
        ("tensor_parallel: 2", "tensor_parallel: 3", "layout.tensor_parallel 3 does not divide"),
        ("tensor_parallel: 2", "tensor_parallel: 4", "layout.tensor_parallel 4 does not divide heads of block 0 (2)"),
        (
            "tensor_parallel: 2}}",
            "tensor_parallel: 2, sequence_parallel: true}, sequence: 63}",
            "stage deep: sequence 63 is not a multiple of layout.tensor_parallel 2, as sequence_parallel",
        ),
        (
            "max_positions: 64}",
            "max_positions: 64, pool_window: 2}\nlayout: {tensor_parallel: 2, sequence_parallel: true}",
            "layout.sequence_parallel needs rows of a known length, but with pool_window 2",
        ),
        (
            "deepspeed: ds_configs/zero3.json",
            "deepspeed: zero3.json",
            "stage deep: deepspeed: zero3.json does not exist",
        ),
        ("max_positions: 64", "max_positions: 64, vocab_size: 5", "model.vocab_size 5 is not the corpus's 1000"),
        ("name: tiny", "name: a/b", "name is 'a/b'"),
        ("sequence: 64", "sequence: 64\nsequence: 32", "line 10: key 'sequence' is given twice"),
        ("name: tiny", "name: [", "recipe.yaml line"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(recipe_file, old, new, message):
    with pytest.raises(UserError) as caught:
        resolve(load_recipe(recipe_file(old, new)), corpus_vocab_size=1000, num_ranks=4)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "write KEY=VALUE"),
        ("stages.7.steps=1", "'7' is not one of the 3 entries 0..2 (tied, untied, deep)"),
        ("name.first=1", "nothing below 'first'"),
        ("steps=soon", "steps is 'soon'"),
        ("optimizer.nme=adamw", "unknown key optimizer.nme (did you mean 'name'?)"),
    ],
)
def test_a_bad_override_is_named(recipe_file, override, message):
    with pytest.raises(UserError) as caught:
        load_recipe(recipe_file(), [override])
    assert message in str(caught.value)


def test_layers_that_are_drawn_are_not_computed_again(recipe_file):
    overrides = ["recompute=true", "model.norm=pre", "model.layer_drop={keep: 0.5, gamma: 0.01}"]
    with pytest.raises(UserError, match="stage tied: recompute true computes layers a second time"):
        resolve(load_recipe(recipe_file(), overrides), None, 4)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="binary.yaml cannot be read"):
        load_recipe(tmp_path / "binary.yaml")


def test_an_unknown_recipe_names_those_that_exist():
    with pytest.raises(
        UserError,
        match="neither a file nor a recipe that comes with Espalier: "
        "demo, esm-mini, laptop, modernbert-large-grown, base, large, mini",
    ):
        load_recipe("nowhere.yaml")
    with pytest.raises(UserError, match="did you mean 'compound-base'.*methods academic, albert"):
        load_recipe("componud-base")


# --- one recipe over another ----------------------------------------------------------------------------------------


def written(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_a_recipe_says_only_what_differs_from_the_one_it_extends(tmp_path):
    below = "{name: deep, grow: [stack, tile_ffn], shape: {layers: 50%, ffn: 100%}}"
    written(
        tmp_path,
        common=f"extends: base\noptimizer: {{lr: 3e-4}}\nstages:\n - {{name: small, steps: 30%, shape: {{layers: 25%, "
        f"ffn: 50%}}}}\n - {below}",
        mine="extends: common.yaml\noptimizer: {eps: 1e-8}\nstages: {deep: {grow: stack, shape: {ffn: 50%}}}",
    )
    recipe = load_recipe(tmp_path / "mine.yaml", ["stages.small.steps=40%"])
    assert (recipe.name, recipe.steps, recipe.batch.rows) == ("mine", 1_000_000, 256)
    assert (recipe.optimizer.lr, recipe.optimizer.eps, recipe.optimizer.weight_decay) == (3e-4, 1e-8, 0.01)
    small, deep = resolve(recipe, None, 8).stages
    assert (small.end, small.config.layers, small.config.ffn) == (400_000, 3, 1536)
    assert (deep.config.layers, deep.config.ffn, [operator.name for operator in deep.grow]) == (6, 1536, ["stack"])
    assert "extends" not in recipe.model_dump()


def test_a_method_is_laid_over_a_scale_and_its_settings_hold_where_it_says():
    base, large, mini = (load_recipe(f"swe-f-{scale}") for scale in ("base", "large", "mini"))
    assert [recipe.model["norm"] for recipe in (base, large, mini)] == ["pre"] * 3
    assert [recipe.optimizer.lr for recipe in (base, large, mini)] == [3e-4, 3e-4, load_recipe("mini").optimizer.lr]
    assert [stage.config.layers for stage in resolve(large, None, 8).stages] == [24, 24]
    assert load_recipe("swe-units-large").stages[0].shape.asked == {"sharing": Share(25)}
    assert resolve(load_recipe("swe-units-large"), None, 8).stages[0].config.num_blocks == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: mine.yaml", "extends itself"),
        ("extends: bsae", "recipe 'bsae' is neither a file nor a recipe"),
        ("extends: other.yaml", "other.yaml cannot be read"),
        ("extends: compound-base\nstages: {fulll: {steps: 1}}", "stages.fulll: the recipe below has"),
        ("extends: base\nstages: [{name: a, shape: {norm: 5%}}]", "shape.norm is '5%': input should be 'post'"),
        ("extends: base\nmodel: {heads: [12, 12]}\nstages: [{name: a, shape: {heads: 5%}}]", "and not a number"),
        ("extends: base\nstages: [{name: a, sequence: 0}]", "stages.0.sequence: 0 is neither a count from 1"),
        ("extend: base", "unknown key extend (did you mean 'extends'?)"),
    ],
)  # fmt: skip
def test_a_mistake_in_building_on_a_recipe_is_named(tmp_path, text, message):
    written(tmp_path, mine=text)
    with pytest.raises(UserError) as caught:
        resolve(load_recipe(tmp_path / "mine.yaml"), None, 8)
    assert message in str(caught.value)


def test_a_method_needs_a_scale():
    with pytest.raises(UserError, match="is a method; name it with a scale, for example compound-base"):
        load_recipe("pretrain/recipe/shipped/methods/compound.yaml")


def test_shares_are_rounded_to_counts_that_exist():
    assert counted({"layers": "25%", "ffn": "37.5%"}, {"layers": 6, "ffn": 64}) == {"layers": 2, "ffn": 24}
    assert counted({"layers": "5%", "light_layers": "50%"}, {"layers": 6}) == {"layers": 1, "light_layers": [1, 3, 5]}
    assert counted({"low_rank": {"mlm.transform": "25%"}}, {"hidden": 64}) == {"low_rank": {"mlm.transform": 16}}
    assert counted_steps([{"mask_growth": {"steps": "5%"}}], 1000) == [{"mask_growth": {"steps": 50}}]


def test_a_head_follows_its_layer_into_a_shallower_model():
    stages = [{"name": "deep", "steps": 4}, {"name": "shallow", "grow": "coalesce", "shape": {"layers": 4}}]
    data = {"corpus": "none", "sentence_pairs": "sop"}
    recipe = made_up_recipe("heads", 8, model={"layers": 8, "sentence_layer": 6}, data=data, stages=stages)
    assert resolve(recipe, 131, 1).stages[1].config.sentence_layer == 3
