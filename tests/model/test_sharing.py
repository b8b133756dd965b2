"""A block used by several layers: computed as if repeated, and its gradient is the mean over its uses."""

import numpy as np
import pytest

from model.parameters import parameter_table
from tests.support.running import build, random_batch, random_weight, small_config

PATTERNS = {
    "all": (4, 1),
    "2 x 2": (4, 2),
    "groups": (4, (0, 0, 1, 1)),
    "uneven": (5, (0, 1, 1, 0, 1)),
    "one shared pair": (4, (0, 1, 1, 2)),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_gradient_is_the_mean_over_uses(pattern, norm):
    layers, sharing = PATTERNS[pattern]
    config = small_config(layers=layers, sharing=sharing, norm=norm)
    batch = random_batch(config, "packed")
    tied = build(config)
    tied_output = tied(batch)
    tied_output.loss.backward()

    untied_config = config.replace(sharing=None)
    untied = build(untied_config)
    untied.load_weights(lambda name: random_weight(config, shared_name(config, name)))
    untied_output = untied(batch)
    untied_output.loss.backward()
    assert untied_output.loss.item() == pytest.approx(tied_output.loss.item(), rel=1e-13)

    gradients = {name: parameter.grad.numpy() for name, parameter in untied.named_parameters()}
    uses = {name: [] for name in parameter_table(config)}
    for name in gradients:
        uses[shared_name(config, name)].append(gradients[name])
    assert any(len(use) > 1 for use in uses.values())
    for name, parameter in tied.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), np.mean(uses[name], axis=0), atol=1e-12, err_msg=name)


def shared_name(config, name: str) -> str:
    """The tied model's name of an untied model's parameter."""
    parts = name.split(".")
    if parts[0] == "blocks":
        parts[1] = str(config.block_of(int(parts[1])))
    return ".".join(parts)


def test_a_shared_block_exists_once():
    parameters = list(build(small_config(layers=6, sharing=2)).parameters())
    assert len(parameters) == len(list(build(small_config(layers=2)).parameters()))
