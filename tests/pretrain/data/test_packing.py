import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.packing import deal, pack


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 64).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=200))))
def test_rows_are_not_overfull_and_best_fit_decreasing(case: tuple[int, list[int]]) -> None:
    capacity, lengths = case
    rows = pack(np.array(lengths, np.int64), capacity)
    filled = np.bincount(rows, lengths, minlength=0)
    assert len(rows) == len(lengths) and (filled <= capacity).all() and (filled > 0).all()
    rooms: list[int] = []  # the textbook algorithm, in the plain way
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(capacity - length)
    assert sorted(rooms) == sorted(capacity - filled.astype(int))


@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 100))
def test_every_row_is_dealt_once_and_hands_are_of_equal_size(num_hands: int, hand_size: int, seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(1, 512, num_hands * hand_size)
    hands = deal(tokens, num_hands)
    assert hands.shape == (num_hands, hand_size)
    assert np.array_equal(np.sort(hands.ravel()), np.arange(len(tokens)))


def test_a_skewed_set_is_dealt_evenly() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        tokens = np.clip(draw.lognormal(4, 1.2, 512).astype(int), 5, 512)
        hands = tokens[deal(tokens, 8)].sum(1)
        in_order = tokens.reshape(8, 64).sum(1)
        assert hands.max() / hands.min() < 1.02 < in_order.max() / in_order.min()
