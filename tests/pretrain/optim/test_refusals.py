"""What cannot be exact is refused with the reason, and bad numbers are named."""

import json

import pytest

from model.errors import UserError
from pretrain.optim import OPTIMIZERS
from pretrain.optim.section import Optimizer
from pretrain.recipe import load_recipe, resolve
from pretrain.recipe.load import explained

ALL = tuple(optimizer.name for optimizer in OPTIMIZERS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(lr=-1), "optimizer.lr is -1: input should be greater than 0"),
        (dict(betas=[0.9, 1.0]), "optimizer.betas.1 is 1.0: input should be less than 1"),
        (dict(betas=[-0.1, 0.9]), "optimizer.betas.0 is -0.1: input should be greater than or equal to 0"),
        (dict(eps=0), "optimizer.eps is 0: input should be greater than 0"),
        (dict(weight_decay=1.5), "optimizer.weight_decay is 1.5: input should be less than 1"),
        (dict(layer_decay=0), "optimizer.layer_decay is 0: input should be greater than 0"),
        (
            dict(name="lion"),
            "optimizer.name is 'lion' (did you mean 'muon'?): input should be 'adamw', 'lamb', 'lans', 'muon' or "
            "'stableadamw'",
        ),
        (dict(trust_bounds=[0.01, 0.3]), "trust_bounds is for lamb, not for adamw; remove it"),
        (dict(name="lans", prenormalize="always"), "prenormalize is for lamb, not for lans; remove it"),
        (dict(momentum=0.9), "momentum is for muon, not for adamw; remove it"),
        (dict(name="lamb", fallback={"lr_factor": 0.1}), "fallback is for muon, not for lamb; remove it"),
        (dict(name="muon", momentum=1), "optimizer.momentum is 1: input should be less than 1"),
        (dict(name="muon", steps=0), "optimizer.steps is 0: input should be greater than or equal to 1"),
        (dict(name="muon", fallback={"lr": 1e-3}), "optimizer.fallback.lr"),
        (
            dict(name="muon", scale="kimi"),
            "optimizer.scale is 'kimi': input should be 'spectral', 'jordan' or 'moonshot'",
        ),
        (dict(adapted="all"), "adapted is for lamb and lans, not for adamw; remove it"),
        (dict(name="lamb", trust_bounds=[0.3, 0.01]), "trust_bounds [0.3, 0.01] has the larger bound first; swap them"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(UserError) as error, explained(Optimizer, section="optimizer"):
        Optimizer(**{"lr": 1e-3} | values)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("section", "precision", "message"),
    [
        ({"stage": 3, "offload_optimizer": {"device": "nvme"}}, "bf16", "to nvme: the optimizer cannot access"),
        ({"stage": 3, "offload_param": {"device": "nvme"}}, "bf16", "NVMe-offloaded weights"),
        ({"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}, "bf16", "with its own AdamW"),
        ({"stage": 3, "zero_hpz_partition_size": 2}, "bf16", "ignore tensor parallelism"),
        ({"stage": 3, "mics_shard_size": 2}, "bf16", "mics_shard_size, which DeepSpeed does not know"),  # any more
        ({"stage": 2, "zenflow": {"topk_ratio": 0.1}}, "bf16", "to a section: ZenFlow"),
        ({"stage": 0}, "fp16", "a loss scale without scaling the loss"),
    ],
)
def test_what_cannot_be_exact_is_refused(tmp_path, name, section, precision, message):
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"zero_optimization": section}))
    recipe = load_recipe("base", [f"deepspeed={file}", f"precision={precision}", f"optimizer.name={name}"])
    with pytest.raises(UserError) as error:
        resolve(recipe, None, 2)
    assert message in str(error.value)
    assert str(file) in str(error.value)


def test_deepspeeds_own_muon_is_refused(tmp_path):
    """It orthogonalizes each tensor-parallel shard by itself, and clips by the norm of what it has orthogonalized."""
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"optimizer": {"type": "Muon"}, "zero_optimization": {"stage": 1}}))
    with pytest.raises(UserError, match="sets optimizer to a section, but the recipe owns it"):
        resolve(load_recipe("base", [f"deepspeed={file}"]), None, 2)


@pytest.mark.parametrize("key", ["bf16_master_weights_and_grads", "grad_accum_dtype"])
def test_masters_are_fp32(tmp_path, key):
    file = tmp_path / "engine.json"
    extra = {"data_types": {key: "fp32"}} if key == "grad_accum_dtype" else {"bf16": {"enabled": "auto", key: True}}
    file.write_text(json.dumps({"zero_optimization": {"stage": 1}} | extra))
    with pytest.raises(UserError, match=key):
        resolve(load_recipe("base", [f"deepspeed={file}", "precision=bf16"]), None, 2)


def test_a_step_is_one_of_a_global_batch(tmp_path):
    file = tmp_path / "engine.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 1}, "managed_gradient_accumulation": False}))
    with pytest.raises(UserError, match="managed_gradient_accumulation to False: every micro-batch would be a step"):
        resolve(load_recipe("base", [f"deepspeed={file}"]), None, 2)


@pytest.mark.parametrize("name", ALL)
def test_every_shipped_engine_file_takes_every_optimizer(name):
    for stage in ("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"):
        recipe = load_recipe("base", [f"optimizer.name={name}", f"deepspeed=ds_configs/{stage}.json"])
        assert resolve(recipe, None, 2).recipe.optimizer.chosen.name == name
