"""Options are declared by the optimizers; the recipe's section has all of them."""

import subprocess
import sys

from pretrain.optim import OPTIMIZERS
from pretrain.optim.section import Optimizer


def test_the_section_has_the_options_of_all_optimizers():
    keys = Optimizer.model_fields
    assert set(keys) == {"name", *(option for optimizer in OPTIMIZERS for option in optimizer.model_fields)}
    for optimizer in OPTIMIZERS:
        for option, field in optimizer.model_fields.items():
            assert keys[option].default == field.default
            assert keys[option].metadata == field.metadata, "the bounds are included"


def test_a_dump_names_every_option_whatever_the_optimizer():
    """A run that is resumed compares its recipe with the one it wrote."""
    assert Optimizer(lr=1e-3).model_dump() == {
        "name": "adamw",
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.01,
        "decayed": "matrices",
        "grad_clip": 1.0,
        "clip_bucket_mb": None,
        "layer_decay": 1.0,
        "adapted": "matrices",
        "bias_correction": True,
        "trust_bounds": None,
        "prenormalize": "never",
        "momentum": 0.95,
        "nesterov": True,
        "steps": 5,
        "scale": "spectral",
        "heads": "together",
        "fallback": {"lr_factor": 1.0, "weight_decay": None},
        "compile": True,
    }


def test_the_options_are_read_without_torch_s_optimizers():
    code = "import sys, pretrain.optim.section; print('pretrain.optim.layerwise' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
