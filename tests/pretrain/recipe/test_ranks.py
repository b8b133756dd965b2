"""How many ranks a run uses where nodes come and go."""

import pytest

from model.errors import UserError
from pretrain.cost.plan import plan_tables
from pretrain.recipe import resolve
from pretrain.recipe.ranks import idle_ranks, usable_ranks
from tests.support.tiny import tiny_recipe

COMING_AND_GOING = {"min_nodes": 1}
STAGES = [
    {"name": "one", "steps": 4},
    {"name": "two", "steps": 4, "batch": {"global": 96}, "layout": {"tensor_parallel": 2}},
]


@pytest.fixture
def recipe(corpus):
    return tiny_recipe(corpus, batch={"global": 64, "micro": 6}, stages=STAGES, faults=COMING_AND_GOING)


@pytest.mark.parametrize(("there", "used"), [(2, 2), (3, 2), (4, 4), (7, 4), (8, 8), (15, 8), (31, 16), (64, 64)])
def test_the_most_that_divide_every_stage(recipe, there, used):
    assert usable_ranks(recipe, there) == used
    run = resolve(recipe, 100, used)
    for stage in run.stages:
        assert stage.micro_batch * stage.accumulation * stage.data_parallel == stage.global_batch
        assert stage.micro_batch <= 6


def test_ranks_that_stay_idle_are_said(recipe):
    assert idle_ranks(recipe, 8) is None
    assert idle_ranks(recipe, 7) == ("batch.global 64, 96 cannot be shared out evenly among 7 ranks: 4 train, idle: 3")


def test_too_few_for_the_layout_are_refused(recipe):
    with pytest.raises(UserError, match="layout.tensor_parallel 2 does not divide the 1 processes"):
        resolve(recipe, 100, usable_ranks(recipe, 1))


def test_without_the_key_the_number_of_ranks_must_divide(corpus):
    recipe = tiny_recipe(corpus, batch={"global": 64})
    assert (usable_ranks(recipe, 7), idle_ranks(recipe, 7)) == (7, None)
    with pytest.raises(UserError, match="batch.global 64 is not a multiple of the 7 data-parallel ranks"):
        resolve(recipe, 100, 7)


def test_plan_says_what_the_result_depends_on(corpus):
    lines = plan_lines(tiny_recipe(corpus, batch={"global": 64}, faults=COMING_AND_GOING))
    assert "nodes may come and go, down to 1" in lines
    assert "another number of ranks draws other dropout masks and adds up in another order" in lines
    assert "batch.micro is not set" in lines
    assert "nodes may come and go" not in plan_lines(tiny_recipe(corpus))


def plan_lines(recipe):
    tables = plan_tables(resolve(recipe, 100, 4)).renderables
    return "\n".join(str(part) for part in tables)
