"""What `plan` says of a change of shape that is learned."""

import io

from rich.console import Console

from growth.learned_maps import map_flops, num_coefficients
from pretrain.cost.flops import training_flops
from pretrain.cost.learning import learning_bytes, most_bytes
from pretrain.cost.memory import num_parameters, parameters_per_tensor_rank, peak_bytes, stage_bytes
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


def test_a_rank_holds_whole_weights_and_maps_whatever_divides_its_steps():
    """The row of `plan`, and what decides whether a stage fits: learning takes more than a step under ZeRO 3."""
    run = resolve(load_recipe("ligo-large", ["deepspeed=ds_configs/zero3.json", "batch.micro=1"]), None, 8)
    small, large = run.stages
    ((held, step),) = learning_bytes(run, large, on_cpu=False)
    old, new = num_parameters(small.config), parameters_per_tensor_rank(large.config, 1)
    assert (held.weights, held.gradients) == (4 * old + 2 * new, 2 * new)
    assert held.optimizer == 4 * 6 * num_coefficients(small.config, large.config)
    learning, training = (peak_bytes(*each, on_cpu=False) for each in ((held, step), stage_bytes(large, False)))
    assert most_bytes(run, large, on_cpu=False) == learning > training
    assert most_bytes(run, small, on_cpu=False) == peak_bytes(*stage_bytes(small, False), on_cpu=False)
    text = io.StringIO()
    print_plan(run, on_cpu=False, console=Console(file=text, width=200))
    assert "target: maps 1 x 8 -" in " ".join(text.getvalue().split())
