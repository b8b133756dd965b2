"""Random numbers as a pure function of their position: nothing is drawn, so a resume has nothing to replay.

Counter-based generators (Salmon et al. 2011): hash the coordinates (seed, epoch, document, ...) to get the number that
belongs there. The mixing function is the finaliser of splitmix64 (Steele, Lea and Flood 2014).
"""

from functools import lru_cache

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection on uint64 in which every input bit moves every output bit. Any shape."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash_of(*coordinates: int | np.ndarray) -> np.ndarray:
    """One uint64 per tuple of coordinates (integers or integer arrays, broadcast together)."""
    num_integers = next((i for i, part in enumerate(coordinates) if not isinstance(part, int)), len(coordinates))
    key = _hash_of_integers(coordinates[:num_integers])
    for coordinate in coordinates[num_integers:]:
        key = _absorbed(key, coordinate)
    return key


@lru_cache(maxsize=1024)
def _hash_of_integers(coordinates: tuple[int, ...]) -> np.ndarray:
    """[1] The part that seeds, epochs and streams share: computed once for all the places hashed with it."""
    return _absorbed(_hash_of_integers(coordinates[:-1]), coordinates[-1]) if coordinates else np.zeros(1, np.uint64)


def _absorbed(key: np.ndarray, coordinate: int | np.ndarray) -> np.ndarray:
    return mix((key ^ np.asarray(coordinate).astype(np.uint64)) + GOLDEN)


def below(hashes: np.ndarray, bound: int | np.ndarray) -> np.ndarray:
    """Integers in 0..bound-1 (bound < 2**32) from the upper halves of the hashes, as int64."""
    return (((hashes >> np.uint64(32)) * np.asarray(bound).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def permuted(ranks: np.ndarray, size: int, *key: int) -> np.ndarray:
    """Where a key's permutation of 0..size-1 sends `ranks` (int64), in constant memory for any size.

    A Feistel network on the next power of four, walked until it falls inside (Black and Rogaway 2002): on average fewer
    than four rounds of the network.
    """
    half_bits = np.uint64(max(1, (size - 1).bit_length() + 1 >> 1))
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    round_keys = [hash_of(*key, number) for number in range(8)]

    def network(x: np.ndarray) -> np.ndarray:
        left, right = x >> half_bits, x & mask
        for round_key in round_keys:
            left, right = right, left ^ (mix(right ^ round_key) & mask)
        return left << half_bits | right

    result = network(np.asarray(ranks).astype(np.uint64))
    while (outside := result >= size).any():
        result[outside] = network(result[outside])
    return result.astype(np.int64)
