"""Sequences into rows, and rows to ranks: two bin packings."""

import heapq

import numpy as np


def pack(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The row of each sequence [P]: best fit decreasing, the sum of every row at most `capacity`.

    The rooms of the open rows are kept as bits of one integer, so that the tightest row that still has room is found by
    two operations whatever the number of rows.
    """
    rows = np.empty(len(lengths), np.int64)
    rows_with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r: some open row has r tokens of room
    num_rows = 0
    for sequence in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[sequence])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = rows_with_room[room].pop()
            if not rows_with_room[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, num_rows
            num_rows += 1
        rows[sequence] = row
        if room > length:
            rows_with_room[room - length].append(row)
            rooms |= 1 << (room - length)
    return rows


def deal(tokens: np.ndarray, num_hands: int) -> np.ndarray:
    """Rows dealt into hands of equal number and nearly equal tokens: [num_hands, len(tokens) / num_hands], ascending.

    The longest row left goes to the hand with the fewest tokens that still wants a row (Graham 1969).
    """
    assert len(tokens) % num_hands == 0, (len(tokens), num_hands)
    if num_hands == 1:
        return np.arange(len(tokens))[None]
    hand_size = len(tokens) // num_hands
    hands: list[list[int]] = [[] for _ in range(num_hands)]
    waiting = [(0, number) for number in range(num_hands)]
    for row in np.argsort(-tokens, kind="stable").tolist():
        total, number = heapq.heappop(waiting)
        hands[number].append(row)
        if len(hands[number]) < hand_size:
            heapq.heappush(waiting, (total + int(tokens[row]), number))
    return np.sort(np.array(hands, np.int64).reshape(num_hands, hand_size), axis=1)
