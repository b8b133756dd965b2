"""Model variants train under DeepSpeed: the same losses for every ZeRO stage and layout.

Variants that go together share a shape, so that four short runs of each cover all.
"""

import pytest

from model.parameters import parameter_table
from pretrain.engine.exchange import read_state
from pretrain.engine.zero import destroy
from tests.support.harness import CONFIG, settings, start, train, whole_state
from tests.support.workers import pool

SHAPES = {
    "pooled, slimming, masked, low rank, factorised, uneven, no biases": dict(
        layers=3,
        pool_window=2,
        slimming={"heads": 0.01, "ffn": 0.01},
        masked={"hidden": 24, "heads": 2, "ffn": 40, "steps": 2},
        low_rank={"feedforward.input": 8, "attention.value": 8},
        embedding_size=16,
        ffn=(72, 48, 60),
        attention_bias=False,
    ),
    "random features, new layer, pre": dict(
        attention="favor", layers=3, masked={"layers": (1,), "steps": 2}, norm="pre"
    ),
    "light, shared": dict(layers=4, sharing=2, light_layers=(1, 3)),
    "frozen": dict(layers=3, frozen_layers=1, norm="pre"),
    "layer dropping": dict(layers=4, norm="pre", layer_drop={"keep": 0.4, "gamma": 10.0}),
    "sub-models": dict(layers=4, sub_models=2),
    "token dropping": dict(layers=4, token_dropping={}),
    "words at a layer": dict(layers=3, mlm_layer=2, norm="pre"),
    "modern": dict(
        **dict(positions="rotary", type_vocab=0, gated=True, norm="pre", embedding_norm=True, first_norm=False),
        **dict(attention_bias=False, ffn_bias=False, norm_bias=False, head_bias=False),
        local_attention={"window": 4, "global_every": 2},
    ),
    "rotary, RMSNorm, token dropout": dict(
        positions="rotary", norm="pre", norm_type="rms", activation="silu", gated=True, token_dropout={"mask_token": 3}
    ),
}


def losses_and_steps(config, tp: int, stage: int, precision: str, num_steps: int = 4):
    # A draw of layer dropping holds for a micro-batch: with one a step, it holds for the same rows in every layout.
    engine = start(config, settings(tp, stage, precision, accumulation=1 if config.layer_drop else 2))
    losses = []
    for step in range(num_steps):
        engine.module.begin_step(step, step, seed=5)
        losses += train(engine, step, 1)
    steps = {name: record.step for name, record in whole_state(read_state(engine)).items()}
    if stage == 3:
        assert read_from_outside(engine) <= {"embeddings.word.weight", *coefficients(config)}
    destroy(engine)
    return losses, steps


def read_from_outside(engine) -> set[str]:
    """The parameters that other modules read than their own, each of which ZeRO 3 gathers in a message of its own."""
    named = {parameter: name for name, parameter in engine.module.named_parameters()}
    return {named[parameter] for module in engine.module.modules() for _, parameter in module.ds_external_parameters()}


def coefficients(config) -> set[str]:
    """Slimming's, which are also a part of the loss."""
    return {name for name in parameter_table(config) if name.endswith(".coefficients")}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_every_layout_trains_the_same(changes):
    config = CONFIG.replace(**changes)
    (exact, steps), *_ = pool(1).run(losses_and_steps, config, 1, 0, "fp32")
    assert len(set(exact)) == len(exact), "nothing is trained"
    for tp, stage, precision, tolerance in ((1, 3, "fp32", 3e-6), (2, 1, "fp32", 3e-6), (1, 2, "bf16", 0.05)):
        for losses, other_steps in pool(2).run(losses_and_steps, config, tp, stage, precision):
            assert losses == pytest.approx(exact, abs=tolerance * exact[0]), (tp, stage, precision)
            assert other_steps == steps
