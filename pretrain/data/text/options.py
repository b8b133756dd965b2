"""The options of `prepare`, and how it reports progress."""

import os
import re
import time
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tyro.conf import Positional, arg

from model.errors import UserError
from pretrain.data.text.sentences import AUTO
from pretrain.data.text.sources.base import BrokenFiles, DocumentKind, TextFormat
from pretrain.settings.options import OptionalInt, OptionalPath, OptionalStr, OptionalText

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*")
FilterName = Literal["gopher_quality", "gopher_repetition", "c4_quality", "fineweb_quality"]


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare, and how."""

    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE ...", help_behavior_hint="")] = ()
    """Files (.txt, .jsonl, .parquet, .fasta or .fa of proteins, also as .gz, .bz2, .xz, .zst; .idx of Megatron's, with
    --vocab), directories of them, Hugging Face datasets, or "sotu", built in."""
    output: OptionalPath = None
    """The directory to write the corpus into; must be given."""
    tokenizer: Literal["wordpiece", "characters", "unigram", "bpe", "byte-bpe", "residues"] = "wordpiece"
    """The kind of vocabulary to train. Characters suit models that must learn something within minutes; unigram and bpe
    are SentencePiece's, byte-bpe is that of GPT-2 and ModernBERT. Residues are the alphabet of ESM-2, for proteins."""
    vocab: OptionalPath = None
    """A given vocabulary instead: vocab.txt of WordPiece tokens, tokenizer.json, a SentencePiece .model, or a model of
    transformers: its folder, or hub:OWNER/NAME."""
    vocab_size: int = 30522
    """The largest size of a trained vocabulary, in tokens."""
    lowercase: bool = True
    """Lower the case and strip accents before tokenizing, where a vocabulary is trained. A given one says it itself."""
    allow_unknown: bool = False
    """Keep a corpus even if more than half of its tokens are [UNK]."""
    documents: DocumentKind = TextFormat.documents
    """What a document is in a .txt file: a block between blank lines, the whole file, or a line."""
    sentences: Literal["marks", "line"] = "marks"
    """Where a sentence ends: at its marks (. ? ! and those of other scripts), or at the end of every line."""
    language: str = AUTO
    """The language whose rules and abbreviations tell sentence ends, such as "de". Default: by the script of each
    document, with those of English for Latin letters."""
    text_column: str = TextFormat.text_column
    """The column that holds the text in .jsonl, .parquet and datasets."""
    broken_files: BrokenFiles = TextFormat.broken_files
    """Compressed files that are cut off or damaged: keep what can be read of them, or stop with exit code 2."""
    dataset_config: OptionalStr = TextFormat.dataset_config
    """Which configuration of a Hugging Face dataset."""
    dataset_split: str = TextFormat.dataset_split
    """Which split of a Hugging Face dataset to read."""
    valid_share: float = 0.01
    """The share of documents held out for validation, chosen by a hash of their text."""
    valid: Annotated[tuple[str, ...], arg(metavar="SOURCE ...", help_behavior_hint="")] = ()
    """Text of your own to hold out for validation, instead of a share: sources as above. Its files are not trained on,
    even if they lie in a directory that is."""
    document_tokens: OptionalInt = None
    """Cut documents longer than this many tokens at sentence ends, into separate documents that shuffle well."""
    deduplicate: bool = False
    """Keep only the first of documents with the same text."""
    min_tokens: int = 0
    """Leave out documents with fewer tokens."""
    max_tokens: OptionalInt = None
    """Leave out documents with more tokens."""
    vocab_sample_mb: int = 100
    """How much of the text, in megabytes, a vocabulary is trained on: the beginning of every file, in equal parts."""
    shard_tokens: int = 500_000_000
    """Begin a new pair of files when one holds this many tokens."""
    licence: OptionalText = ""
    """A note on the licence of the text, kept in the manifest."""
    num_workers: OptionalInt = None
    """Processes that tokenize, or tasks at once. Default: one for each core; as many tasks as SLURM has room for. The
    result does not depend on it."""
    filters: Annotated[
        tuple[FilterName, ...],
        arg(metavar=f"{{{','.join(get_args(FilterName))}}} ...", help_behavior_hint=""),
    ] = ()
    """Filters of datatrove that leave documents out, in this order."""
    near_duplicates: bool = False
    """Keep one of documents that resemble each other, found by datatrove's MinHash."""
    executor: Annotated[Literal["local", "slurm"] | None, arg(metavar="{local,slurm}", help_behavior_hint="")] = None
    """Prepare in tasks, each for some of the files: here, or as jobs of SLURM on as many nodes as it gives."""
    task_mb: int = 256
    """Megabytes on disk that a task reads, about: of several files, or of one that is larger."""
    sbatch: Annotated[tuple[str, ...], arg(metavar="OPTION=VALUE ...", help_behavior_hint="")] = ()
    """Options of sbatch for each task, such as partition=cpu time=04:00:00 mem=8G."""

    def check(self) -> None:
        """Raises UserError when a value is out of range."""
        if not self.sources:
            raise UserError("no source given; name a file, a directory, a Hugging Face dataset or 'sotu'")
        if not self.output:
            raise UserError("no output given; name the directory to write the corpus into: --output corpora/NAME")
        if not 0 < self.valid_share < 1:
            raise UserError(f"valid_share {self.valid_share} must lie between 0 and 1")
        if self.valid and self.valid_share != PrepareOptions.valid_share:
            raise UserError(
                f"valid_share {self.valid_share} holds out a part of the sources, but valid names {self.valid[0]}; "
                "leave one of them out"
            )
        if self.language != AUTO and not _LANGUAGE.fullmatch(self.language):
            raise UserError(f"language {self.language!r} must be a code such as de or zh-hant, or {AUTO}")
        if self.in_tasks and find_spec("datatrove") is None:
            raise UserError("filters, near_duplicates and executor need datatrove: pip install 'espalier-bert[corpus]'")
        if broken := [option for option in self.sbatch if "=" not in option or option.startswith("-")]:
            raise UserError(f"sbatch option {broken[0]!r} must read NAME=VALUE, such as time=04:00:00")
        for name in ("document_tokens", "max_tokens", "num_workers", "shard_tokens", "vocab_sample_mb", "task_mb"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} {value} must be at least 1")

    @property
    def text_format(self) -> TextFormat:
        return TextFormat(**{each.name: getattr(self, each.name) for each in fields(TextFormat)})

    @property
    def one_a_line(self) -> bool:
        return self.sentences == "line"

    @property
    def in_tasks(self) -> bool:
        return bool(self.executor or self.filters or self.near_duplicates)

    @property
    def workers(self) -> int:
        return self.num_workers or len(os.sched_getaffinity(0))

    @staticmethod
    def when_left_out() -> dict[str, Any]:
        """The options that earlier versions did not have, as JSON: they did as now when these are left out."""
        later = {
            "valid": [],
            "sentences": "marks",
            "language": AUTO,
            "filters": [],
            "near_duplicates": False,
            "broken_files": "keep",
        }
        return {"allow_unknown": False, **later}

    def that_matter(self) -> dict[str, Any]:
        """The options that the result depends on, as JSON."""
        values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        for name in ("executor", "task_mb", "sbatch", "allow_unknown"):
            del values[name]
        lists = {name: list(values[name]) for name in ("sources", "valid", "filters")}
        return {**values, **lists, "output": None, "num_workers": None}


@dataclass
class Progress:
    """Where prepare stands; handed to the `progress` callback about once a megabyte."""

    phase: str
    """"vocabulary" or "tokens"; in tasks, the name of a stage."""
    total_disk_bytes: int | None
    """Size of the sources on disk; None when only reading them will tell."""
    megabytes: float = 0.0
    """Of text read so far."""
    disk_bytes: int = 0
    num_documents: int = 0
    tasks: tuple[int, int] | None = None
    """How many are done, of how many."""
    _started: float = field(default_factory=time.perf_counter, repr=False)
    _megabytes_before: float = field(default=0.0, repr=False)
    _disk_bytes_before: int = field(default=0, repr=False)

    def resume(self, megabytes: float, disk_bytes: int, num_documents: int) -> None:
        """Counts what an earlier, killed run did, without its time."""
        self.megabytes = self._megabytes_before = megabytes
        self.disk_bytes = self._disk_bytes_before = disk_bytes
        self.num_documents = num_documents

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    @property
    def megabytes_per_second(self) -> float:
        return (self.megabytes - self._megabytes_before) / max(self.seconds, 1e-9)

    @property
    def share(self) -> float | None:
        """Of the work that is done, 0 to 1."""
        if self.tasks:
            return self.tasks[0] / self.tasks[1]
        return min(1.0, self.disk_bytes / self.total_disk_bytes) if self.total_disk_bytes else None

    @property
    def total_megabytes(self) -> float | None:
        """Of text, estimated from what was read so far."""
        return self.megabytes / self.share if self.share else None

    @property
    def seconds_left(self) -> float | None:
        done = self.disk_bytes - self._disk_bytes_before
        if not self.total_disk_bytes or done <= 0:
            return None
        return self.seconds * max(0, self.total_disk_bytes - self.disk_bytes) / done
