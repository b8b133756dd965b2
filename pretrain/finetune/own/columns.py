"""Which columns of a table hold text and labels: those that are named, else those whose names tell."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from model.errors import UserError, nearest
from pretrain.finetune.own.table import Table


@dataclass(frozen=True)
class Known:
    """Names that tell what a column holds, the plainest first. Case does not matter."""

    texts: tuple[tuple[str, ...], ...]
    """One column, or two that belong together."""
    labels: tuple[str, ...]


SENTENCES = Known(
    (
        ("text",),
        *(("sentence1", "sentence2"), ("text1", "text2"), ("premise", "hypothesis"), ("question1", "question2")),
        *((name,) for name in ("sentence", "review", "content", "body", "comment", "message", "document", "tweet")),
    ),
    ("label", "labels", "class", "category", "target", "score", "rating", "stars", "sentiment"),
)
SPANS = Known((("question", "context"),), ("answers", "answer"))
TAGS = Known((("tokens",), ("words",)), ("tags", "ner_tags", "labels", "pos_tags", "chunk_tags"))


@dataclass(frozen=True)
class Chosen:
    texts: tuple[str, ...]
    label: str


def choose(table: Table, known: Known, texts: Sequence[str] = (), label: str | None = None) -> Chosen:
    """The columns of `table`: those given, else by their names.

    Raises UserError for a column that is not there, and where names do not tell.
    """
    for name in [*texts, *([label] if label else [])]:
        if name not in table.columns:
            raise UserError(
                f"{table.path} has no column {name!r}{nearest(name, list(table.columns))}; it has {_listed(table)}"
            )
    by_case = {name.lower(): name for name in reversed(table.columns)}
    found_label = label or _told(by_case, [(name,) for name in known.labels], texts)
    found_texts = tuple(texts) or _told(by_case, known.texts, [label] if label else [])
    others = [name for name in table.columns if name not in (*(found_texts or ()), *(found_label or ()), label)]
    if found_texts is None and found_label and len(others) == 1 and len(known.texts[0]) == 1:
        found_texts = (others[0],)
    elif found_label is None and found_texts and len(others) == 1:
        found_label = (others[0],)
    if found_texts is None or found_label is None:
        raise UserError(_unclear(table, found_texts is None, found_label is None))
    chosen = Chosen(found_texts, label or found_label[0])
    if not (texts and label):
        print(
            f"espalier: {table.path}: text from {' and '.join(chosen.texts)}, label from {chosen.label}",
            file=sys.stderr,
        )
    return chosen


def _told(by_case: dict[str, str], known: Sequence[tuple[str, ...]], taken: Sequence[str]) -> tuple[str, ...] | None:
    """The columns whose names are known. The plainest name wins; of several others, none does."""
    free = {name: own for name, own in by_case.items() if own not in taken}
    there = [tuple(free[name] for name in names) for names in known if all(name in free for name in names)]
    if len(there) == 1 or (there and there[0] == tuple(free.get(name) for name in known[0])):
        return there[0]
    return None


def _unclear(table: Table, no_text: bool, no_label: bool) -> str:
    what = " and ".join(["text"] * no_text + ["label"] * no_label)
    options = " ".join(["--text COLUMN"] * no_text + ["--label COLUMN"] * no_label)
    header = (
        "; if it has no header line, add one: text,label"
        if any(" " in name or name.isdecimal() for name in table.columns) and table.path.suffix in (".csv", ".tsv")
        else ""
    )
    return (
        f"{table.path}: no names tell which columns hold {what} (it has {_listed(table)}); say it by {options}{header}"
    )


def _listed(table: Table) -> str:
    """The names, cut where they are sentences: of a table without a header."""
    names = [name if len(name) <= 40 else name[:37] + "..." for name in table.columns]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
