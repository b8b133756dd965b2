"""Every recipe that `plan` accepts trains. `--recipes 70` draws so many tiny ones; the suite itself trains none, since
each starts engines."""

import random
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model.errors import UserError
from pretrain.recipe import Recipe
from pretrain.training.preflight import check_run
from pretrain.training.train import train
from tests.support.tiny import losses, tiny_values
from tests.support.workers import pool

STEPS = 3
NUM_RANKS = 2
FIELDS: dict[str, tuple] = {
    "norm": ("pre", "post"),
    "activation": ("gelu", "gelu_tanh", "relu"),
    "hidden_dropout": (0, 0.1),
    "attention_dropout": (0, 0.1),
    "position_init": ("normal", "sinusoidal"),
    "attention_init": ("independent", "aligned", "neighbours"),
    "output_init": ("equal", "scaled"),
    "sharing": (1, 2, [0, 0], [0, 1]),
    "embedding_size": (16, 8),
    "low_rank": ({"feedforward.input": 4}, {"attention.query": 4, "mlm.transform": 8}),
    "attention": ("elu", "relu", "favor"),
    "light_layers": ([1], [0, 1]),
    "slimming": ({"heads": 1e-4, "ffn": 1e-4},),
    "pool_window": (2,),
    "attention_bias": (False,),
    "ffn_bias": (False,),
    "layer_drop": ({"keep": 0.5, "gamma": 0.5},),
    "frozen_layers": (1,),
    "sub_models": (1,),
    "token_dropping": ({}, {"keep": 0.3}),
    "sentence_head": (True, False),
}
GROWTH: tuple[tuple[Any, dict[str, Any]], ...] = (
    ("stack", {"layers": 4}),
    ("interleave", {"layers": 4}),
    ("append_top", {"layers": 3}),
    ("identity_layers", {"layers": 3}),
    ("widen", {"hidden": 64, "heads": 8, "ffn": 96}),
    ({"widen": {"how": "fpi"}}, {"ffn": 100}),
    ({"widen": {"how": "lemon"}}, {"hidden": 64}),
    ("tile_ffn", {"ffn": 128}),
    ({"mask_growth": {"steps": 2}}, {"hidden": 40, "layers": 3}),
    ({"ligo": {"steps": 2}}, {"layers": 3, "hidden": 40, "heads": 6, "ffn": 80}),
    ("unshare", {"sharing": None}),
    ({"share": {"correlation": 0.3}}, {"sharing": 1}),
    ("densify", {"low_rank": {}}),
    ("prune_heads", {"heads": 2}),
    ("prune_neurons", {"ffn": 32}),
    ("coalesce", {"layers": 1, "ffn": 32}),
    ("decoalesce", {"layers": 4, "ffn": 128}),
    ("lengthen", {"max_positions": 64}),
    ("unpool", {"pool_window": 1}),
    ("auto", {"layers": 4, "ffn": 128}),
    ("auto", {"hidden": 48, "ffn": 80}),
    ("rewind", {}),
)


def drawn(draw: random.Random, corpus: Path) -> dict[str, Any]:
    """A recipe of three steps and one change of shape. Many contradict themselves."""
    model = dict(layers=2, hidden=32, heads=4, ffn=64, max_positions=32)
    model |= {name: draw.choice(FIELDS[name]) for name in draw.sample(sorted(FIELDS), draw.randint(0, 4))}
    grow, shape = draw.choice(GROWTH)
    optimizer = {"name": draw.choice(("adamw", "lamb", "lans")), "lr": draw.choice((1e-3, 1e-4))}
    second = {"name": "second", "steps": 1, "grow": grow, "shape": shape}
    if draw.random() < 0.3:
        second |= {"layout": {"tensor_parallel": draw.choice((1, 2))}, "schedule": {"rewarm": 1}}
    return tiny_values(
        corpus,
        seed=draw.choice((0, 1, 2**40)),
        model=model,
        optimizer=optimizer | draw.choice(({}, {"layer_decay": 0.9}, {"decayed": "all"}, {"grad_clip": 0})),
        data={
            "corpus": str(corpus),
            "mask_rate": draw.choice((0.05, 0.15, 0.5)),
            "whole_word": draw.random() < 0.3,
            "sentence_pairs": draw.choice(("none", "nsp", "sop")),
            "max_span": draw.choice((1, 3)),
        },
        precision=draw.choice(("fp32", "bf16")),
        recompute=draw.random() < 0.3,
        layout={"tensor_parallel": draw.choice((1, 2)), "sequence_parallel": draw.random() < 0.3},
        deepspeed=f"ds_configs/{draw.choice(('zero0', 'zero1', 'zero2', 'zero3', 'zero2_offload'))}.json",
        sequence=draw.choice((16, 32)),
        batch={"global": draw.choice((4, 8)), "micro": draw.choice((1, 2))},
        schedule={"warmup": draw.choice((0, 1)), "shape": draw.choice(("linear", "cosine", "constant"))},
        validation={"rows": draw.choice((2, 8))},
        checkpoint={"every": draw.choice((0, 1)), "background": draw.random() < 0.5},
        stages=[{"name": "first", "steps": STEPS - 1}, second],
    )


def test_what_plan_accepts_trains(pytestconfig, corpus, tmp_path):
    wanted = pytestconfig.getoption("--recipes")
    trained, number, faults = 0, 0, []
    while trained < wanted:
        values, folder = drawn(random.Random(f"recipe {number}"), corpus), tmp_path / str(number)
        number += 1
        try:
            recipe = Recipe.model_validate(values)
            check_run(recipe, NUM_RANKS, folder)
        except (UserError, ValidationError):
            continue
        trained += 1
        try:
            pool(NUM_RANKS).run(train, recipe, folder)
            assert len(losses(folder)) == STEPS
        except AssertionError as fault:
            faults.append(f"recipe {number - 1}: {values}\n{str(fault)[-1500:]}")
    print(f"{number} recipes drawn, {trained} accepted and trained, {len(faults)} faults")
    assert not faults, "\n\n".join(faults)
