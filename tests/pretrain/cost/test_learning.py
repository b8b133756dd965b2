"""What `plan` says of a change of shape that is learned."""

import io

from rich.console import Console

from growth.learned_maps import map_flops
from pretrain.cost.flops import training_flops
from pretrain.cost.plan import print_plan
from pretrain.cost.savings import compare_costs, stage_flops
from pretrain.recipe import load_recipe, resolve


def test_plan_counts_the_steps_on_the_maps():
    run = resolve(load_recipe("ligo-base"), None, 8)
    small, large = run.stages
    rows, tokens = large.global_batch, large.sequence
    of_a_step = training_flops(large.config, rows, tokens, round(rows * tokens * 0.15))
    learned = 100 * (of_a_step + map_flops(small.config, large.config))
    steps = small.length * stage_flops(small) + large.length * stage_flops(large)
    assert compare_costs(run).run == steps + learned
    assert 0 < map_flops(small.config, large.config) < 0.05 * of_a_step

    text = io.StringIO()
    print_plan(run, console=Console(file=text, width=200))
    assert f"learned maps {learned:.3g}" in " ".join(text.getvalue().split())
    assert "target: ligo first takes 100 steps on its maps" in text.getvalue()
