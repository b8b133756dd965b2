"""Sequences into rows, and rows to ranks: two bin packings."""

import heapq

import numpy as np

_ROWS_IN_THE_TIME_OF_A_LENGTH = 64
"""How many rows are dealt one by one in the time that all rows of one length take at once."""


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
    order = np.argsort(-tokens, kind="stable")
    changes = np.flatnonzero(np.diff(tokens[order])) + 1
    if len(order) > _ROWS_IN_THE_TIME_OF_A_LENGTH * (len(changes) + 1):
        hand = _deal_lengths(tokens, np.split(order, changes), num_hands)
    else:
        hand = _deal_rows(tokens, order, num_hands)
    return np.argsort(hand, kind="stable").reshape(num_hands, -1)


def _deal_rows(tokens: np.ndarray, order: np.ndarray, num_hands: int) -> np.ndarray:
    """[rows] the hand of each row, one row after the other."""
    hand = np.empty(len(order), np.int64)
    wanted = [len(order) // num_hands] * num_hands
    waiting = [(0, number) for number in range(num_hands)]
    for row in order.tolist():
        total, number = heapq.heappop(waiting)
        hand[row] = number
        wanted[number] -= 1
        if wanted[number]:
            heapq.heappush(waiting, (total + int(tokens[row]), number))
    return hand


def _deal_lengths(tokens: np.ndarray, of_one_length: list[np.ndarray], num_hands: int) -> np.ndarray:
    """The same, all rows of one length at a time: a hand that has t tokens has its turns at t, t + length, ...

    The turns of all hands, in order, are those of the rows. `of_one_length`: the rows, those of each length together.
    """
    hand = np.empty(len(tokens), np.int64)
    totals, wanted = np.zeros(num_hands, np.int64), np.full(num_hands, len(tokens) // num_hands)
    for rows in of_one_length:
        length = int(tokens[rows[0]])
        while len(rows):
            waiting = np.flatnonzero(wanted)
            number = min(len(rows), len(waiting) * int(wanted[waiting].min()))  # so that each hand may get its share
            # Until the fullest hand has had a share of them, there are turns enough.
            last = totals[waiting].max() + length * (-(-number // len(waiting)) - 1)
            num_turns = np.minimum(wanted[waiting], (last - totals[waiting]) // length + 1)
            taker = np.repeat(waiting, num_turns)
            turn = np.arange(len(taker)) - np.repeat(np.cumsum(num_turns) - num_turns, num_turns)
            taker = taker[np.argsort((totals[taker] + length * turn) * num_hands + taker, kind="stable")[:number]]
            hand[rows[:number]] = taker
            taken = np.bincount(taker, minlength=num_hands)
            totals, wanted, rows = totals + length * taken, wanted - taken, rows[number:]
    return hand
