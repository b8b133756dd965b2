"""The part of a table that is held out and scored."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from model.errors import UserError


def held_out_rows(texts: Sequence[Hashable], groups: Sequence[Hashable], share: float, table: str) -> set[int]:
    """Rows to hold out: `share` of each group, always the same. Rows of equal text stay together.

    A group, such as a class, keeps at least one row to train on. Raises UserError if nothing can be held out.
    """
    by_group: dict[Hashable, dict[Hashable, None]] = defaultdict(dict)
    for text, group in zip(texts, groups, strict=True):
        by_group[group][text] = None
    generator = np.random.default_rng(0)
    chosen: set[Hashable] = set()
    for distinct in map(list, by_group.values()):
        num_held_out = min(round(share * len(distinct)), len(distinct) - 1)
        chosen |= {distinct[place] for place in generator.permutation(len(distinct))[:num_held_out]}
    rows = {row for row, text in enumerate(texts) if text in chosen}
    if not rows or len(rows) == len(texts):
        raise UserError(
            f"{table}: {len(texts)} examples are too few to hold out {share:g} of them; give more, a larger "
            "--valid-share, or a table of their own by --valid"
        )
    return rows
