"""Early-layer alignment with a teacher: loss, gradients and FLOPs against transformers and torch's counter."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.alignment import Alignment, folded
from model.batch import Batch
from model.config import BertConfig
from model.parallel.tensor import unshard
from model.parameters import parameter_table
from pretrain.cost.flops import encoder_flops, training_flops
from tests.support.huggingface import assert_their_gradients, reference_model, reference_outputs
from tests.support.running import build, random_batch, small_config

LAYER, SCALE = 2, 0.75


def aligned(config: BertConfig, teacher: BertConfig) -> torch.nn.Module:
    model = build(config)
    model.alignment = Alignment("teacher", build(teacher).requires_grad_(False).encode, LAYER)
    return model


def mean_of_units(x: torch.Tensor, width: int) -> torch.Tensor:
    """The definition, unit by unit."""
    return torch.stack([x[..., unit::width].mean(-1) for unit in range(width)], -1)


@pytest.mark.parametrize("layout", ["full", "padded"])
@pytest.mark.parametrize(
    ("norm", "widths"), [("post", (24, 8)), ("post", (24, 16)), ("pre", (16, 24)), ("pre", (24, 24))]
)
def test_loss_and_gradients_equal_transformers(norm, widths, layout):
    """Widths: of the model and its teacher. With pre-LN states are taken through the final norm, which transformers
    applies to the last ones only."""
    config = small_config(layers=4, hidden=widths[0], sentence_head=False, norm=norm)
    small = small_config(layers=3, hidden=widths[1], sentence_head=False)
    batch = random_batch(config, layout)
    reference, teacher = reference_model(config), reference_model(small)
    theirs, target = reference_outputs(reference, batch), reference_outputs(teacher, batch).hidden_states[-1].detach()
    states = theirs.hidden_states[LAYER]
    if norm == "pre":
        states = reference.bert.encoder.ln(states)
    width = min(widths)
    one, other = mean_of_units(states, width), mean_of_units(target, width)
    cosines = (one * other).sum(-1) / (one.pow(2).sum(-1).sqrt() * other.pow(2).sum(-1).sqrt())
    total = cosines.sum() if batch.segments is None else cosines[batch.segments > 0].sum()
    logits = theirs.logits.flatten(0, 1)[batch.masked_positions]
    nll = torch.nn.functional.cross_entropy(logits, batch.masked_ids, reduction="sum")
    (0.25 * nll - SCALE * total).backward()

    model = aligned(config, small)
    output = model(batch, mlm_scale=0.25, align_scale=SCALE)
    output.loss.backward()
    assert output.cosines.item() == pytest.approx(total.item(), rel=1e-12)
    assert output.loss.item() == pytest.approx((0.25 * nll - SCALE * total).item(), rel=1e-12)
    gradients = {
        name: unshard(spec, [model.get_parameter(name).grad.reshape(spec.padded_shape)]).numpy()
        for name, spec in parameter_table(config).items()
    }
    assert_their_gradients(gradients, reference, config)


def test_without_a_weight_only_the_model_is_computed():
    def teach(batch: Batch) -> torch.Tensor:
        raise AssertionError("the teacher was asked")

    model, plain = build(small_config(layers=4)), build(small_config(layers=4))
    model.alignment = Alignment("teacher", teach, LAYER)
    batch = random_batch(model.config, "packed")
    ours, theirs = model(batch), plain(batch)
    assert ours == theirs and ours.cosines is None
    with pytest.raises(AssertionError, match="the teacher was asked"):
        model(batch, align_scale=SCALE)


def test_folding_is_a_projection():
    identity = torch.eye(10, dtype=torch.float64)
    fold = folded(identity, 4).T  # [4, 10]
    products = fold @ fold.T
    np.testing.assert_allclose(products, np.diag([1 / 3, 1 / 3, 1 / 2, 1 / 2]), atol=1e-15)
    assert torch.equal(folded(identity, 10), identity)


def test_flops_equal_torchs_counter():
    words = dict(vocab_size=128, sentence_head=False)  # as many as there are columns
    config, small = small_config(layers=4, **words), small_config(hidden=8, embedding_size=4, **words)
    model, batch = aligned(config, small), random_batch(config)
    rows, length = batch.ids.shape
    with FlopCounterMode(display=False) as counter:
        model(batch, align_scale=SCALE).loss.backward()
    expected = training_flops(config, rows, length, len(batch.masked_ids)) + rows * encoder_flops(small, length)
    assert counter.get_total_flops() == expected
