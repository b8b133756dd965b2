import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.loss import AS_A_WHOLE, IN_CHUNKS, vocab_parallel_cross_entropy
from model.parallel.tensor import TensorParallel
from tests.support.running import layout_of
from tests.support.workers import pool

PASSES = {"in chunks": IN_CHUNKS, "as a whole": AS_A_WHOLE}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("passes", PASSES.values(), ids=PASSES)
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 5),
    vocab_size=st.integers(1, 40),
    padding=st.integers(0, 9),
    scale=st.sampled_from([0.1, 1.0, 300.0]),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 10**6),
)
def test_equals_torch(passes, rows, vocab_size, padding, scale, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocab_size + padding, generator=generator) * scale).to(dtype)
    targets = torch.randint(vocab_size, (rows,), generator=generator)
    weights = torch.rand(rows, generator=generator).to(torch.float64)

    ours = logits.clone().requires_grad_()
    loss, correct = vocab_parallel_cross_entropy(ours, targets, vocab_size, TensorParallel(), passes)
    (loss * weights).sum().backward()

    reference = logits[:, :vocab_size].double().requires_grad_()
    expected = F.cross_entropy(reference, targets, reduction="none")
    (expected * weights).sum().backward()

    assert loss.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    loss_tolerance = TOLERANCE[dtype if dtype != torch.bfloat16 else torch.float32]
    torch.testing.assert_close(loss.double(), expected, atol=loss_tolerance * max(1, scale), rtol=loss_tolerance)
    torch.testing.assert_close(ours.grad[:, :vocab_size].double(), reference.grad, atol=TOLERANCE[dtype], rtol=1e-2)
    assert ours.grad.dtype == dtype
    assert torch.count_nonzero(ours.grad[:, vocab_size:]) == 0, "a padded column has a gradient"
    best = reference.gather(1, targets.unsqueeze(1)).squeeze(1) == reference.amax(1) if rows else correct
    assert torch.equal(correct, best)


def sharded_loss(logits, targets, vocab_size, size, passes):
    tp = layout_of(size).install()
    local = torch.from_numpy(logits).chunk(size, dim=1)[tp.rank].clone().requires_grad_()
    loss, correct = vocab_parallel_cross_entropy(local, torch.from_numpy(targets), vocab_size, tp, PASSES[passes])
    (loss * torch.arange(1, len(loss) + 1)).sum().backward()
    return loss.detach().numpy(), correct.numpy(), local.grad.numpy()


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize(
    "vocab_size", [32, 17, 15, 7]
)  # full; padding in the last shard; from the third on; in all but one
def test_sharded_equals_whole(vocab_size, passes):
    random = np.random.default_rng(0)
    logits, targets = random.standard_normal((6, 32)) * 5, random.integers(vocab_size, size=6)
    targets[0] = logits[0, :vocab_size].argmax()
    (whole_loss, whole_correct, whole_gradient) = pool(2).run(sharded_loss, logits, targets, vocab_size, 1, passes)[0]
    ranks = pool(4).run(sharded_loss, logits, targets, vocab_size, 4, passes)
    for loss, correct, _ in ranks:
        np.testing.assert_allclose(loss, whole_loss, rtol=1e-13)
        assert np.array_equal(correct, whole_correct)
    assert whole_correct[0]
    np.testing.assert_allclose(np.concatenate([gradient for *_, gradient in ranks], axis=1), whole_gradient, atol=1e-14)
