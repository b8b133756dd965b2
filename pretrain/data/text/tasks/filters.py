"""datatrove's filters by the names that `prepare` knows."""

from collections import Counter
from collections.abc import Iterable, Sequence

from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter

from pretrain.data.text.options import FilterName
from pretrain.data.text.tasks.words import Words

_FILTERS: dict[FilterName, type[BaseFilter]] = {
    "gopher_quality": GopherQualityFilter,
    "gopher_repetition": GopherRepetitionFilter,
    "c4_quality": C4QualityFilter,
    "fineweb_quality": FineWebQualityFilter,
}


def make_filters(names: Iterable[FilterName]) -> list[BaseFilter]:
    return [_FILTERS[name](language=Words()) for name in names]


def dropped_by(names: Iterable[FilterName], filters: Sequence[BaseFilter]) -> Counter[str]:
    """What each has left out so far in this process, by "filter: reason"."""
    return Counter(
        {
            f"{name}: {label.removeprefix('dropped_')}": int(count.total)
            for name, each in zip(names, filters, strict=True)
            for label, count in each.stats.stats.items()
            if label.startswith("dropped_")
        }
    )
