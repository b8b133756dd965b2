"""Sources by name, as `prepare` is given them: which files they are, and their content in chunks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from model.errors import UserError
from model.registry import takes
from pretrain.data.text.sources import FILE_FORMATS, NAMED_TEXTS, limits
from pretrain.data.text.sources.base import Block, FileFormat, NamedText, TextFormat, gathered
from pretrain.data.text.sources.built_in import BUILT_IN
from pretrain.data.text.sources.streams import COMPRESSIONS

_FORMATS = {file_format.ending: file_format for file_format in FILE_FORMATS}
_NAMED = [*NAMED_TEXTS]


@takes(FileFormat)
def _add_format(kind: type[FileFormat]) -> None:
    if kind.ending in _FORMATS:
        raise UserError(f"files that end in {kind.ending} are read already; give {kind.__name__} another ending")
    _FORMATS[kind.ending] = kind()


@takes(NamedText)
def _add_text(kind: type[NamedText]) -> None:
    _NAMED.insert(0, kind())


@dataclass(frozen=True)
class Input:
    """One thing to read: a file, a dataset or the built-in corpus."""

    name: str
    num_bytes: int | None
    """On disk; None if only reading will tell."""
    path: Path | None = None
    held_out: bool = False
    """Whether its documents are for validation, all of them."""

    @property
    def is_tokenized(self) -> bool:
        return self.path is not None and _format_of(self.path).is_tokenized


def all_inputs(sources: Iterable[str], valid: Iterable[str]) -> list[Input]:
    """The held-out text, if any is given, and then the text to train on, without what is held out of it.

    Raises UserError for a source that is missing, and where no text is left to train on.
    """
    held_out = [replace(each, held_out=True) for each in find_inputs(valid)]
    taken = {_place(each) for each in held_out}
    to_train_on = [each for each in find_inputs(sources) if _place(each) not in taken]
    if not to_train_on:
        raise UserError(f"--valid holds out every source ({', '.join(sources)}); name other text to train on")
    return [*held_out, *to_train_on]


def _place(source: Input) -> str | Path:
    return source.path.resolve() if source.path else source.name


def find_inputs(sources: Iterable[str]) -> list[Input]:
    """The sources in order, a directory replaced by its sorted files. Raises UserError for a source that is missing."""
    inputs = []
    endings = ", ".join(COMPRESSIONS)
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and _ending(file) in _FORMATS)
            if not files:
                raise UserError(f"directory {path} holds no {', '.join(_FORMATS)} file (or these with {endings})")
            inputs += [Input(str(file), file.stat().st_size, file) for file in files]
        elif path.exists():
            if not path.is_file():
                raise UserError(
                    f"corpus {path} is neither a file nor a directory; write what it gives into a file first"
                )
            if _ending(path) not in _FORMATS:
                raise UserError(f"corpus {path} must end in {', '.join(_FORMATS)} (and may be compressed: {endings})")
            inputs.append(Input(source, path.stat().st_size, path))
        elif source != BUILT_IN and (_ending(path) in _FORMATS or source.startswith((".", "/", "~"))):
            raise UserError(f"corpus {source} does not exist; give a file, a directory, a dataset name or {BUILT_IN!r}")
        else:
            inputs.append(Input(source, None))
    return inputs


def read_chunks(inputs: Iterable[Input], format: TextFormat) -> Iterator[list[Block]]:
    """The blocks of all inputs, in order, gathered into chunks. None holds both held-out text and text to train on.

    Raises UserError if a column is missing or an input cannot be read at all.
    """
    chunk: list[Block] = []
    size = 0
    for source in inputs:
        if chunk and chunk[-1].held_out != source.held_out:
            yield chunk
            chunk, size = [], 0
        for block in read_blocks(source, format):
            chunk.append(block)
            size += block.num_bytes
            if size >= limits.CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def read_blocks(source: Input, format: TextFormat) -> Iterator[Block]:
    """The blocks of one input. Raises UserError where it cannot be read."""
    for block in _read(source, format):
        block.held_out = source.held_out
        yield block


def _read(source: Input, format: TextFormat) -> Iterator[Block]:
    if source.path is not None:
        try:
            yield from _format_of(source.path).read(source.path, format)
        except OSError as error:
            raise UserError(f"{source.path} cannot be read: {error.strerror or error}") from error
        return
    named = next(text for text in _NAMED if text.knows(source.name))
    yield from gathered(named.read(source.name, format))


def _format_of(path: Path) -> FileFormat:
    return _FORMATS[_ending(path)]


def _ending(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix
