"""The progress of `prepare` for people: a bar on a terminal, a line every few seconds in a log."""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from pretrain.data.text.documents import describe
from pretrain.data.text.options import Progress
from pretrain.data.text.writing import IN_BOTH, SPLITS

_SECONDS_BETWEEN_LINES = 5.0
WARN_OF_UNKNOWN = 0.01
"""Share of [UNK] among the tokens."""


FEW_HELD_OUT = 10_000
"""Tokens: with 15% of them masked a loss of 5 nats is known to a tenth."""
LARGEST_SHARE = 0.1


@contextmanager
def shown_progress() -> Iterator[Callable[[Progress], None]]:
    """The callback to hand to `prepare`. Writes to stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines().show
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("", total=None, figures="")

        def show(progress: Progress) -> None:
            total = 1.0 if progress.share is not None else None
            done, figures = progress.share or 0.0, _figures(progress)
            bar.update(task, description=progress.phase, total=total, completed=done, figures=figures)

        yield show


def print_counts(directory: Path, manifest: dict) -> None:
    """Prints what a corpus contains and, on a second line, what was skipped or repaired."""
    tokenizer = manifest["tokenizer"]
    case = "" if tokenizer.get("lowercase", True) else ", case kept"
    held = ", ".join(f"{split['num_tokens']:,} tokens to {name}" for name, split in manifest["splits"].items())
    print(f"{directory}: vocabulary of {tokenizer['vocab_size']:,}{case}; {held}")
    if "unknown_share" in tokenizer:
        print(f"{tokenizer['unknown_share']:.2%} of the tokens are [UNK]")
        if tokenizer["unknown_share"] > WARN_OF_UNKNOWN:
            print(
                "espalier: warning: more than 1% [UNK]: the vocabulary does not suit the text well (its case, its "
                "characters)",
                file=sys.stderr,
            )
    if share := better_share(*(manifest["splits"][name]["num_tokens"] for name in SPLITS)):
        print(
            f"espalier: warning: {held.rpartition(', ')[2]} are few to measure a loss on; hold out more of the text, "
            f"such as --valid-share {share:g}, or other text by --valid",
            file=sys.stderr,
        )
    if in_both := manifest["source"].get("held_out", {}).get(IN_BOTH):
        print(
            f"espalier: warning: {in_both:,} documents are trained on although their text is held out too, so the "
            "validation loss is too good; --deduplicate leaves them out",
            file=sys.stderr,
        )
    counts = manifest["left_out_or_repaired"]
    if listed := describe(counts):
        print(f"skipped or repaired: {listed}")
    num_kept = sum(split["num_documents"] for split in manifest["splits"].values())
    for line in _left_out_by_filters(counts, num_kept):
        print(line)


def better_share(num_train: int, num_valid: int) -> float | None:
    """Of the tokens, to hold out instead, where few are."""
    total = num_train + num_valid
    if num_valid >= min(FEW_HELD_OUT, LARGEST_SHARE * total / 2):
        return None
    return min(LARGEST_SHARE, math.ceil(200 * FEW_HELD_OUT / total) / 100)


def _left_out_by_filters(counts: Mapping[str, int], num_kept: int) -> Iterator[str]:
    """A table by filter and reason: how many documents, and which share of those that could have been kept."""
    dropped = Counter({reason: count for reason, count in counts.items() if ": " in reason})
    dropped.update({"near-duplicates": counts.get("near_duplicates", 0)})
    total = num_kept + dropped.total()
    for reason, count in (+dropped).most_common():
        yield f"  {reason:45}{count:>15,}{count / total:>9.2%}"
    if +dropped:
        yield f"  {f'left out of {total:,} documents':45}{dropped.total():>15,}{dropped.total() / total:>9.2%}"


class _Lines:
    def __init__(self) -> None:
        self._last = -_SECONDS_BETWEEN_LINES

    def show(self, progress: Progress) -> None:
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(f"{progress.phase}: {_figures(progress)}", file=sys.stderr, flush=True)


def _figures(progress: Progress) -> str:
    if progress.tasks:
        return f"{progress.tasks[0]:,} of {progress.tasks[1]:,} tasks, {_duration(progress.seconds)}"
    whole = f" of {size(progress.total_megabytes)}" if progress.total_megabytes else ""
    left = f", {_duration(progress.seconds_left)} left" if progress.seconds_left is not None else ""
    return (
        f"{size(progress.megabytes)}{whole} MB, {progress.num_documents:,} documents, "
        f"{progress.megabytes_per_second:.1f} MB/s{left}"
    )


def size(megabytes: float) -> str:
    """A small text is some tenths of a megabyte, not none."""
    return f"{megabytes:,.0f}" if megabytes >= 10 else f"{megabytes:.1f}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
