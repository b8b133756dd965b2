import heapq

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


@given(st.integers(1, 6), st.integers(1, 200), st.sampled_from([2, 6, 512]), st.integers(0, 100))
def test_the_longest_row_goes_to_the_hand_with_the_fewest_tokens(
    num_hands: int, hand_size: int, longest: int, seed: int
) -> None:
    """As the textbook deals, row by row. Of few lengths, many rows are dealt at once."""
    draw = np.random.default_rng(seed)
    tokens = np.minimum(draw.integers(1, longest, num_hands * hand_size) ** 2, 300)
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    waiting = [(0, number) for number in range(num_hands)]
    for row in np.argsort(-tokens, kind="stable").tolist():
        total, number = heapq.heappop(waiting)
        hands[number].append(row)
        if len(hands[number]) < hand_size:
            heapq.heappush(waiting, (total + tokens[row], number))
    assert deal(tokens, num_hands).tolist() == [sorted(hand) for hand in hands]


def test_a_skewed_set_is_dealt_evenly() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        tokens = np.clip(draw.lognormal(4, 1.2, 512).astype(int), 5, 512)
        hands = tokens[deal(tokens, 8)].sum(1)
        in_order = tokens.reshape(8, 64).sum(1)
        assert hands.max() / hands.min() < 1.02 < in_order.max() / in_order.min()
