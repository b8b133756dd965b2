"""What a decision does to the stages of a run, and which rules a recipe may not ask for."""

import json
from io import StringIO

import pytest
from rich.console import Console

from growth.partial_shape import PartialShape
from model.errors import UserError
from pretrain.checkpoint.progress import Decision, Progress
from pretrain.cost.plan import plan_tables
from pretrain.recipe import Recipe, Run, resolve
from pretrain.recipe.checks.saved_states import check_saved_states
from pretrain.recipe.checks.stage_rules import check_lengths
from pretrain.recipe.decisions import decided
from pretrain.recipe.load import explained
from pretrain.stage_rules.until import watch_stage
from tests.support.stage_rules import make_believe

SHARED = dict(preset="tiny", layers=4, sharing=1)


def resolved(stages: list[dict], model: dict = SHARED, num_ranks: int = 1, **changes) -> Run:
    values = {
        "name": "run",
        "steps": 100,
        "model": model,
        "data": {"corpus": "none"},
        "optimizer": {"lr": 1e-3},
        "schedule": {"warmup": 10},
        "batch": {"global": 8},
        "stages": stages,
    }
    return resolve(Recipe.model_validate(values | changes), None, num_ranks)


THREE = [
    {"name": "tied", "steps": 40, "until": {"tokens": 10}},
    {"name": "untied", "steps": 30, "grow": "unshare", "schedule": {"rewarm": 5}},
    {"name": "deep", "grow": "stack", "shape": {"layers": 8}},
]


def times(run: Run) -> list[tuple[str, float, float]]:
    return [(stage.name, stage.start, stage.end) for stage in run.stages]


def test_what_a_stage_leaves_goes_to_the_last_one():
    run = resolved(THREE)
    early = decided(run, [Decision(0, end=25)])
    assert times(early) == [("tied", 0, 25), ("untied", 25, 55), ("deep", 55, 100)]
    assert [stage.config for stage in early.stages] == [stage.config for stage in run.stages]
    assert early.learning_rate(20) == run.learning_rate(20)
    assert early.learning_rate(24) == run.learning_rate(24)
    assert early.learning_rate(25) == pytest.approx(run.learning_rate.phases[0](25) / 5), "the re-warmup moves along"
    assert early.learning_rate(99) == run.learning_rate(99), "the schedule ends where it would have"


def test_plan_says_what_may_end_a_stage():
    stages = [
        {"name": "tied", "steps": 40, "until": {"tokens": 12_345, "gradient_correlation": {"every": 10}}, "keep": "t"},
        {"name": "groups", "steps": 30, "split": {"below": 0.4, "every": 1, "checks": 1}},
        {"name": "untied", "grow": "unshare"},
    ]
    text = StringIO()
    Console(file=text, width=1000).print(plan_tables(resolved(stages)))
    lines = [line.strip() for line in text.getvalue().splitlines()]
    for line in (
        "tied: at most 40 steps, until 12,345 tokens or more than half of the neighbours' gradients correlate below "
        "0.5 (checked every 10 steps, 3 times in a row)",
        "groups: groups split where the gradients of neighbours correlate below 0.4 (checked every step)",
        "tied: its final state is saved as checkpoints/t",
    ):
        assert line in lines


def test_a_restart_begins_with_its_stage():
    stages = [
        {"name": "search", "steps": 40, "until": {"tokens": 10}},
        {"name": "train", "schedule": {"restart": {"lr": 4e-3, "warmup": 5}}},
    ]
    run = decided(resolved(stages, schedule={"warmup": 30}), [Decision(0, end=20)])
    assert run.learning_rate(19) == pytest.approx(1e-3 * 20 / 30)
    assert run.learning_rate(24) == pytest.approx(4e-3)
    assert run.learning_rate(99) == pytest.approx(4e-3 / 75)


def test_an_early_end_does_not_bend_the_curve_that_a_later_restart_cuts_off():
    stages = [
        {"name": "search", "steps": 30, "until": {"tokens": 10}},
        {"name": "between", "steps": 20, "until": {"tokens": 10}},
        {"name": "train", "steps": 20, "schedule": {"restart": {"warmup": "25%"}}},
        {"name": "again", "schedule": {"restart": {"warmup": "10%"}}},
    ]
    planned = resolved(stages, schedule={"warmup": "20%", "shape": "cosine"})
    run = decided(planned, [Decision(0, end=20), Decision(1, end=35)])
    assert times(run) == [("search", 0, 20), ("between", 20, 35), ("train", 35, 55), ("again", 55, 100)]
    assert [run.learning_rate(tick) for tick in range(35)] == [planned.learning_rate(tick) for tick in range(35)]
    assert [run.learning_rate(35 + tick) for tick in range(20)] == [
        planned.learning_rate(50 + tick) for tick in range(20)
    ]
    assert run.learning_rate(58) == pytest.approx(1e-3 * 4 / 4.0), "a tenth of the 45 steps that are left, rounded"
    assert run.learning_rate(99) == pytest.approx(1e-3 / 41)


@pytest.mark.parametrize("ticks", [(12,), (12, 14), (30,)], ids=str)
def test_a_split_leaves_the_learning_rate_alone(ticks):
    stages = [
        {"name": "begin", "steps": 10},
        {"name": "tied", "steps": 30, "split": {"every": 5}, "schedule": {"rewarm": 8, "lr_scale": 0.5}},
        {"name": "untied", "grow": "unshare", "schedule": {"rewarm": 5}},
    ]
    planned = resolved(stages)
    groups = [PartialShape(sharing=[0, 0, 1, 1]), PartialShape(sharing=[0, 0, 1, 2])]
    run = decided(planned, [Decision(1 + index, tick, groups[index]) for index, tick in enumerate(ticks)])
    assert [run.learning_rate(tick) for tick in range(100)] == [planned.learning_rate(tick) for tick in range(100)]
    assert run.learning_rate.warm_at(run.stages[2].start) == 18, "rules of the rest wait for the climb, too"


def test_a_divided_stage_goes_on_under_its_name():
    stages = [{"name": "tied", "steps": 40, "split": {"every": 5}, "keep": "small"}, *THREE[1:]]
    decisions = [
        Decision(0, 12, PartialShape(sharing=[0, 0, 1, 1])),
        Decision(1, 20, PartialShape(sharing=[0, 0, 1, 2])),
    ]
    run = decided(resolved(stages), decisions)
    assert times(run) == [
        ("tied", 0, 12), ("tied/2", 12, 20), ("tied/3", 20, 40), ("untied", 40, 70), ("deep", 70, 100)
    ]  # fmt: skip
    assert [stage.config.num_blocks for stage in run.stages] == [1, 2, 3, 4, 8]
    assert [stage.index for stage in run.stages] == [0, 1, 2, 3, 4]
    assert [stage.keep for stage in run.stages] == [None, None, "small", None, None]
    separate = decided(run, [Decision(2, 30, PartialShape(sharing=[0, 1, 2, 3]))])
    assert [[operator.name for operator in stage.grow] for stage in separate.stages] == [
        [], ["unshare"], ["unshare"], ["unshare"], [], ["stack"]
    ], "nothing is left to unshare"  # fmt: skip
    watches = [watch_stage(make_believe(run, index)) for index in range(3)]
    assert [[watch.name for watch in each] for each in watches] == [["split"]] * 3
    assert watch_stage(make_believe(separate, 3)) == [], "nor to split"


def test_decisions_are_saved_with_the_progress():
    decisions = [Decision(0, 12, PartialShape(sharing=[0, 0, 1, 1])), Decision(1, 20)]
    progress = Progress(step=20, decisions=decisions)
    assert Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress


def changed(index: int, **changes) -> list[dict]:
    return [stage | (changes if number == index else {}) for number, stage in enumerate(THREE)]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (changed(2, until="auto"), "stage deep: the last stage takes the rest of the run"),
        (changed(0, grow_when="auto"), "stage tied: the first stage has no stage before it to wait for"),
        (changed(1, until="gradient_correlation"), "stage untied: until.gradient_correlation: no layers share a block"),
        (changed(1, split={}), "stage untied: split: no layers share a block"),
        (changed(0, split={}, until="gradient_correlation"), "stage tied: split and until.gradient_correlation both"),
        (changed(0, until="ticket_distance"), "stage tied: until.ticket_distance needs learned coefficients"),
        (changed(0, split={}, until={"loss": {}}), "stages.0.until.loss.below is missing"),
        (changed(0, until={}), "stages.0.until: names no rule; give one of tokens, hours, loss"),
        (changed(0, until={"loss_sloop": {}}), "unknown key stages.0.until.loss_sloop (did you mean 'loss_slope'?)"),
        (changed(0, keep="initial"), "keep 'initial' is the name of another checkpoint"),
        (
            changed(0, keep="small.partial"),
            "keep 'small.partial' ends like an unfinished or damaged checkpoint",
        ),
        (
            changed(0, keep="small.damaged"),
            "keep 'small.damaged' ends like an unfinished or damaged checkpoint",
        ),
        (
            [THREE[0] | {"until": None, "split": {}}, {"name": "deep", "grow": "stack", "shape": {"layers": 8}}],
            "stage tied: split: the groups are not known beforehand, so stage deep has to begin with grow: unshare",
        ),
    ],
)
def test_a_rule_without_a_meaning_is_refused(stages, message):
    with pytest.raises(UserError) as caught, explained(Recipe):
        resolved(stages)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "rule", "earliest", "lower"),
    [
        ("until.loss", {"below": 2, "every": 10, "checks": 3}, 30, "until.loss.every"),
        ("until.loss", {"below": 2, "every": 1, "checks": 30}, 30, "until.loss.checks"),
        ("until.gradient_correlation", {"every": 7}, 21, "until.gradient_correlation.every"),
        # the warmup, then six points and one more
        ("until.loss_slope", {"every": 2}, 5 + 2 * (6 + 1), "the warmup or until.loss_slope.every"),
        ("until.auto", {"every": 2, "least": 17, "checks": 1}, 5 + 18, "the warmup or until.auto.least"),
        # the first check has none before it to differ from
        ("until.ticket_distance", {"every": 6}, 24, "until.ticket_distance.every"),
        ("split", {"every": 8, "checks": 2}, 16, "split.every"),
    ],
)
def test_a_rule_that_needs_more_steps_than_its_stage_has_is_refused(key, rule, earliest, lower):
    slim = SHARED | {"slimming": {"heads": 1e-4, "ffn": 1e-4}}
    following = {"name": "on", "grow": ["unshare", "prune_heads", "fold_slimming"], "shape": {"heads": 1}}
    asked = {"split": rule} if key == "split" else {"until": {key.removeprefix("until."): rule}}

    def of(length: int) -> Run:
        return resolved([{"name": "first", "steps": length, **asked}, following], slim, schedule={"warmup": 5})

    check_lengths(of(earliest + 1))
    with pytest.raises(UserError) as caught:
        check_lengths(of(earliest))
    assert str(caught.value) == (
        f"stage first: {key} can hold only after {earliest} steps, and the stage has {earliest}; "
        f"lower {lower}, or give the stage more steps"
    )


def test_a_stage_too_short_for_the_grow_when_after_it_is_refused_by_that_name():
    for until in ({}, {"until": {"tokens": 9}}):
        stages = [{"name": "first", "steps": 7, **until}, {"name": "on", "grow_when": "auto"}]
        with pytest.raises(UserError, match="^stage first: grow_when of stage on can hold only after 7 ") as caught:
            check_lengths(resolved(stages, schedule={}))
        assert "; lower until.auto.window, or" in str(caught.value)


CYCLE = [
    {"name": "begin", "steps": 10, "keep": "large"},
    {"name": "small", "steps": 50, "grow": "coalesce", "shape": {"layers": 2}},
    {"name": "large", "grow": ["decoalesce", {"interpolate": {"checkpoint": "large"}}], "shape": {"layers": 4}},
]
WHOLE = SHARED | {"sharing": None}


def test_a_run_saves_the_states_that_its_stages_read():
    assert resolved(CYCLE, WHOLE).saved_states == ["large"]
    rewound = [{"name": "a", "steps": 50}, {"name": "b", "grow": "rewind"}]
    assert resolved(rewound, WHOLE).saved_states == ["initial"]
    with pytest.raises(UserError, match=r"grow interpolate: large holds 4x128.*the state here is 2x128"):
        resolved([*CYCLE[:2], CYCLE[2] | {"grow": {"interpolate": {"checkpoint": "large"}}, "shape": {}}], WHOLE)
    small = {"name": "small", "steps": 50, "grow": {"rewind": {"checkpoint": "late"}}, "keep": "late"}
    with pytest.raises(UserError, match=r"stage small: 'late' is saved only after this stage"):
        resolved([CYCLE[0], small, {"name": "end"}], WHOLE)
    elsewhere = {"name": "b", "grow": {"interpolate": {"checkpoint": "runs/other"}}}
    assert resolved([CYCLE[0], elsewhere], WHOLE).saved_states == ["large"]


def test_a_misspelt_state_is_found_before_the_run_begins(tmp_path):
    def checked(name: str, keep: str | None = "large") -> None:
        grow = ["decoalesce", {"interpolate": {"checkpoint": name}}]
        check_saved_states(resolved([CYCLE[0] | {"keep": keep}, CYCLE[1], CYCLE[2] | {"grow": grow}], WHOLE))

    checked("large")
    with pytest.raises(UserError, match=r"stage large: grow interpolate: no stage keeps 'larg' \(did you mean 'large'"):
        checked("larg")
    with pytest.raises(UserError, match=r"no checkpoint has that path; the saved states are initial, large"):
        checked(str(tmp_path))
    (tmp_path / "index.json").touch()
    checked(str(tmp_path), keep=None)


def test_a_state_that_no_stage_reads_is_found_before_the_run_begins():
    check_saved_states(resolved(CYCLE, WHOLE))
    unused = [CYCLE[0], CYCLE[1] | {"keep": "small"}, CYCLE[2]]
    with pytest.raises(UserError, match=r"^stage small: keep 'small': no later stage reads it; remove it"):
        check_saved_states(resolved(unused, WHOLE))


def test_a_state_that_may_have_split_cannot_be_read():
    stages = [
        {"name": "tied", "steps": 20, "keep": "whole"},
        {"name": "groups", "steps": 20, "split": {"every": 5}, "keep": "groups"},
        {"name": "longer", "steps": 20, "keep": "longer"},
        {"name": "untied", "steps": 20, "grow": "unshare", "keep": "untied"},
    ]

    def back_to(name: str) -> dict:
        return {"name": "back", "grow": ["share", {"rewind": {"checkpoint": name}}], "shape": {"sharing": 1}}

    assert resolved([*stages, back_to("whole")])
    assert resolved([*stages, {"name": "back", "grow": {"rewind": {"checkpoint": "untied"}}}])
    for name in ("groups", "longer"):
        with pytest.raises(UserError, match=f"stage back: grow rewind: when {name} is saved its groups may have split"):
            resolved([*stages, back_to(name)])


def test_widths_that_the_state_decides_need_a_multiple_under_tensor_parallelism():
    grow = {"prune_neurons": {"quota": "global"}}
    stages = [{"name": "a", "steps": 50}, {"name": "b", "grow": grow, "shape": {"ffn": 256}}]
    with pytest.raises(UserError, match="layout.tensor_parallel 2 has to divide; set model.ffn_multiple to a multiple"):
        resolved(stages, WHOLE, num_ranks=2, layout={"tensor_parallel": 2})
    assert resolved(stages, WHOLE | {"ffn_multiple": 8}, num_ranks=2, layout={"tensor_parallel": 2})


def test_a_shape_that_the_state_decided_holds_from_there_on():
    stages = [
        {"name": "a", "steps": 40},
        {"name": "b", "steps": 30, "grow": {"prune_neurons": {"quota": "global"}}, "shape": {"ffn": 256}},
        {"name": "c", "grow": "stack", "shape": {"layers": 8}},
    ]
    run = decided(resolved(stages, WHOLE), [Decision(1, shape=PartialShape(ffn=[300, 200, 324, 200]))])
    assert [stage.config.ffn for stage in run.stages] == [512, (300, 200, 324, 200), (300, 200, 324, 200) * 2]


def test_in_a_run_of_hours_the_checks_are_counted_in_steps():
    stages = [{"name": "a", "hours": 1, "until": {"auto": {"every": 10}}}, {"name": "b", "sequence": 512}]
    run = resolved(stages, steps=None, hours=2, schedule={})
    assert run.stages[0].until.auto.every == 10
    with pytest.raises(UserError, match="1% of a run measured in hours is not a number of steps"):
        resolved([stages[0] | {"until": "auto"}, stages[1]], steps=None, hours=2, schedule={})
    with pytest.raises(UserError, match="until.hours is for runs measured in steps"):
        resolved([stages[0] | {"until": {"hours": 1}}, stages[1]], steps=None, hours=2, schedule={})


def test_grow_when_auto_is_until_auto_on_the_stage_before():
    asked = resolved([{"name": "a", "steps": 50}, {"name": "b", "grow": "unshare", "grow_when": "auto"}])
    said = resolved([{"name": "a", "steps": 50, "until": "auto"}, {"name": "b", "grow": "unshare"}])
    assert asked.stages == said.stages
    assert asked.stages[0].until.auto.every == 1
