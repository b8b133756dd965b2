"""Copies of weights and gradients of the same rows: who differs is found, and nothing else is."""

import pytest
import torch
import torch.distributed as dist

from pretrain.engine.arithmetic import differ_beyond_noise, differ_in_bits
from pretrain.engine.replicas import Difference, checksum, different_replica, odd_ones
from pretrain.engine.zero import destroy, model_weights
from tests.support.harness import CONFIG, settings, start, train
from tests.support.workers import pool


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("numel", [4096, 4097])
def test_the_checksum_changes_with_any_bit(dtype, numel):
    tensor = torch.randn(numel).to(dtype)
    before = checksum(tensor).item()
    bits = tensor.view(torch.int32 if dtype == torch.float32 else torch.int16)
    for position in (0, numel // 2, numel - 1):
        for bit in range(8 * tensor.element_size()):
            mask = torch.tensor(1, dtype=torch.int64).bitwise_left_shift(bit).to(bits.dtype)
            bits[position] ^= mask
            assert checksum(tensor).item() != before, (position, bit)
            bits[position] ^= mask
    assert checksum(tensor).item() == before
    assert checksum(tensor[1:]).item() == checksum(tensor[1:].clone()).item()  # wherever it begins in memory


def test_the_odd_ones_are_those_that_differ_from_most():
    assert odd_ones({0: "a", 3: "a", 4: "a"}) == ((), True)
    assert odd_ones({0: "a", 3: "b", 4: "a"}) == ((3,), True)
    assert odd_ones({0: "a", 3: "b", 4: "a", 6: "c", 7: "a"}) == ((3, 6), True)
    assert odd_ones({0: "a", 3: "b"}) == ((0, 3), False)
    assert odd_ones({0: "a", 3: "b", 4: "a", 5: "b"}) == ((0, 3, 4, 5), False)


def different_after_a_flip(zero: int, tensor_parallel: int, precision: str, name: str, rank: int) -> tuple:
    """What is found after two steps, and after one bit of a weight is flipped on one rank."""
    engine = start(CONFIG, settings(tensor_parallel, zero, precision))
    train(engine, 0, 2)
    before = different_replica(engine)
    if dist.get_rank() == rank:
        model_weights(engine)[name].view(-1)[:1].view(torch.uint8)[0] ^= 1  # the lowest bit
    after = different_replica(engine)
    destroy(engine)
    return before, after


KEPT, CUT = "blocks.1.feedforward.norm.weight", "blocks.1.feedforward.input.weight"


@pytest.mark.parametrize(
    ("zero", "tensor_parallel", "precision", "name", "found"),
    [
        (0, 1, "fp32", CUT, Difference((2,), CUT)),
        (1, 1, "fp32", CUT, Difference((2,), CUT)),
        (2, 1, "bf16", KEPT, Difference((2,), KEPT)),
        (1, 2, "fp32", KEPT, Difference((2,), KEPT)),
        (1, 2, "fp32", CUT, Difference((0, 2), CUT, known=False)),  # two copies of each half
        (3, 2, "fp32", KEPT, Difference((2, 3), KEPT, known=False)),
        (3, 2, "fp32", CUT, None),  # there is no copy
    ],
)
def test_one_bit_of_a_weight_is_found_and_named(zero, tensor_parallel, precision, name, found):
    for before, after in pool(4).run(different_after_a_flip, zero, tensor_parallel, precision, name, 2):
        assert before is None
        assert after == found


def figures(replicas: int, noise: float, seed: int = 0) -> torch.Tensor:
    """[replicas, 1, parameters, 2] sums and norms of the same gradients, which differ by `noise` of their norm."""
    generator = torch.Generator().manual_seed(seed)
    norms = torch.rand(60, generator=generator, dtype=torch.float64) + 0.1
    values = torch.stack([norms * torch.randn(60, generator=generator, dtype=torch.float64), norms], -1)
    draw = torch.Generator().manual_seed(1000 + seed)
    around = torch.randn(replicas, 1, 60, 2, generator=draw, dtype=torch.float64)
    return values + noise * norms[:, None] * around


@pytest.mark.parametrize("replicas", [2, 3, 8])
@pytest.mark.parametrize("noise", [1e-7, 1e-3])
def test_noise_alone_is_no_fault_and_what_stands_out_of_it_is(replicas, noise):
    same = figures(1, 0.0).expand(replicas, -1, -1, -1)
    first = same + (figures(replicas, noise) - figures(replicas, 0.0))
    again = same + (figures(replicas, noise, seed=7) - figures(replicas, 0.0, seed=7))
    assert differ_beyond_noise(first, again) == ((), True)
    wrong = first.clone()
    wrong[1, 0, 5, 0] += 0.5 * same[1, 0, 5, 1]
    assert differ_beyond_noise(wrong, again) == ((1,), True)  # once: it does not agree with itself
    always = again.clone()
    always[1, 0, 5, 0] += 0.5 * same[1, 0, 5, 1]
    assert differ_beyond_noise(wrong, always) == (((0, 1), False) if replicas == 2 else ((1,), True))
    wrong[1, 0, 5] = torch.nan
    assert differ_beyond_noise(wrong, always) == ((1,), True)


def test_of_two_that_differ_in_bits_the_one_is_wrong_that_differs_from_itself():
    right, wrong = torch.ones(2, 1, 5, 2), torch.ones(2, 1, 5, 2)
    wrong[1, 0, 3, 0] = 2
    assert differ_in_bits(wrong, right) == ((1,), True)
    assert differ_in_bits(wrong, wrong) == ((0, 1), False)
    three = torch.cat([wrong, right[:1]])
    assert differ_in_bits(three, three) == ((1,), True)
