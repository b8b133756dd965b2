import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.hashing import below, hash_of, permuted


@given(st.integers(1, 3000), st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_permuted_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(permuted(np.arange(size), size, seed, epoch)), np.arange(size))


def test_permuted_is_computed_place_by_place() -> None:
    whole = permuted(np.arange(1000), 1000, 7, 2)
    assert np.array_equal(permuted(np.arange(400, 500), 1000, 7, 2), whole[400:500])
    assert not np.array_equal(permuted(np.arange(1000), 1000, 7, 3), whole)


def test_permuted_sends_every_place_everywhere() -> None:
    size, num_keys = 10, 2000
    first = np.array([permuted(np.arange(2), size, key)[0] for key in range(num_keys)])
    counts = np.bincount(first, minlength=size)
    assert np.abs(counts - num_keys / size).max() < 4 * np.sqrt(num_keys * 0.1 * 0.9)


def test_hashes_are_uniform_and_uncorrelated_over_counters() -> None:
    bits = np.unpackbits(hash_of(3, np.arange(1 << 14)).view(np.uint8).reshape(-1, 8), axis=1)
    assert np.abs(bits.mean(0) - 0.5).max() < 4 * 0.5 / 2**7
    correlation = np.corrcoef(bits.T) - np.eye(64)
    assert np.abs(correlation).max() < 5 / 2**7
    counts = np.bincount(below(hash_of(np.arange(70_000)), 7), minlength=7)
    assert np.abs(counts - 10_000).max() < 4 * 100
