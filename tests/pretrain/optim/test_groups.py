"""Parameter groups: who decays, who adapts, at which part of the learning rate, and who is left alone."""

import pytest
import torch

from model.bert import BertForPreTraining
from model.config import BertConfig
from model.parameters import parameter_table
from pretrain.optim.groups import GroupRules, matrices_decay, parameter_groups, set_learning_rate
from pretrain.optim.section import Optimizer

CONFIG = BertConfig(layers=3, hidden=32, heads=4, ffn=64, vocab_size=97, max_positions=16)


def by_parameter(config: BertConfig, rules: GroupRules, steps: dict | None = None) -> dict[str, dict]:
    groups = parameter_groups(BertForPreTraining(config), steps or dict.fromkeys(parameter_table(config), 0), rules)
    assert len({group["name"] for group in groups}) == len(groups)
    return {name: group for group in groups for name in group["parameter_names"]}


def test_matrices_decay_and_adapt_and_the_rest_does_not():
    found = by_parameter(CONFIG, GroupRules(weight_decay=0.1))
    for name, spec in parameter_table(CONFIG).items():
        assert found[name]["weight_decay"] == (0.1 if spec.decay else 0.0)
        assert found[name]["adapt"] == spec.decay
        assert found[name]["lr_scale"] == 1.0


def test_a_model_without_a_table_decays_as_the_table_says():
    model = BertForPreTraining(CONFIG)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decay = {names[one]: group["weight_decay"] for group in matrices_decay(model, 0.1) for one in group["params"]}
    assert decay == {name: 0.1 if spec.decay else 0.0 for name, spec in parameter_table(CONFIG).items()}


def test_exclusions_can_be_lifted():
    found = by_parameter(CONFIG, GroupRules(weight_decay=0.1, decay_all=True, adapt_all=True))
    assert all(group["weight_decay"] == 0.1 and group["adapt"] for group in found.values())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"mlm.bias": 0, "blocks.2.attention.query.weight": 1, "blocks.0.feedforward.norm.bias": 3}),
        ({"sharing": (0, 1, 0)}, {"blocks.0.attention.query.weight": 1, "blocks.1.attention.query.weight": 2}),
        ({"norm": "pre"}, {"final_norm.weight": 0, "blocks.1.attention.output.bias": 2}),
    ],
)
def test_the_learning_rate_falls_layer_by_layer(changes, expected):
    config = CONFIG.replace(**changes)
    found = by_parameter(config, GroupRules(layer_decay=0.5))
    for name, layers_above in (expected | {"embeddings.word.weight": 4}).items():
        assert found[name]["lr_scale"] == 0.5**layers_above


def test_every_group_gets_its_part_of_the_learning_rate():
    groups = parameter_groups(
        BertForPreTraining(CONFIG), dict.fromkeys(parameter_table(CONFIG), 0), GroupRules(layer_decay=0.5)
    )
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    set_learning_rate(optimizer, 1e-3)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3 * 0.5**layers for layers in range(5)}


def test_frozen_parameters_are_in_no_group():
    found = by_parameter(CONFIG.replace(frozen_layers=2), GroupRules())
    assert not any(name.startswith(("embeddings.", "blocks.0.", "blocks.1.")) for name in found)
    assert any(name.startswith("blocks.2.") for name in found)


def test_parameters_with_different_steps_are_apart():
    steps = {name: 7 if name.startswith("blocks.0.") else 0 for name in parameter_table(CONFIG)}
    found = by_parameter(CONFIG, GroupRules(), steps)
    assert all(group["initial_step"] == steps[name] for name, group in found.items())


@pytest.mark.parametrize("name", ["lamb", "lans"])
def test_a_recipe_s_words_reach_the_optimizer(name):
    bounds = {"trust_bounds": [0.01, 0.3], "prenormalize": "above_one"} if name == "lamb" else {}
    options = Optimizer(
        name=name, lr=1e-3, betas=(0.8, 0.9), eps=1e-5, weight_decay=0.2, decayed="all", adapted="all",
        bias_correction=False, layer_decay=0.9, compile=False, **bounds,
    ).chosen  # fmt: skip
    rules = options.group_rules
    assert rules == GroupRules(weight_decay=0.2, decay_all=True, adapt_all=True, layer_decay=0.9)
    model = BertForPreTraining(CONFIG)
    optimizer = options.make(parameter_groups(model, dict.fromkeys(parameter_table(CONFIG), 0), rules))
    assert not optimizer.compiled
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"], group["bias_correction"]) == ((0.8, 0.9), 1e-5, False)
        assert (group["weight_decay"], group["adapt"]) == (0.2, True)
    if name == "lamb":
        assert (optimizer.trust_bounds, optimizer.prenormalize) == ((0.01, 0.3), "above_one")
    assert options.moment_rule.__name__ == ("of_unit_gradients" if name == "lans" else "of_gradients")


def test_a_missing_compiler_is_told_and_nothing_else_is(monkeypatch):
    lamb, adamw = Optimizer(name="lamb", lr=1e-3).chosen, Optimizer(lr=1e-3).chosen
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler found" in lamb.notes()[0]
    assert adamw.notes() == []
    assert lamb.model_copy(update={"compile": False}).notes() == []
    monkeypatch.setenv("CXX", "true")
    assert lamb.notes() == []
