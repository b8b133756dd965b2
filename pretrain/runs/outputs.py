"""Where verbs write: they check that they can before the work, and a folder gets its name once it is complete."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.errors import UserError


def check_file(option: str, path: Path | None, example: str) -> None:
    """Raises UserError where no file can be written to `path`, whose folders need not exist yet. None is skipped.

    `example` is a file name to suggest where `path` is a folder.
    """
    if path is None:
        return
    with _explained(option, path):
        if path.is_dir():
            raise UserError(f"{option} {path} is a folder; name a file, such as {path / example}")
        if path.exists():
            path.open("a").close()
        else:
            _check_room(option, path)


def check_folder(option: str, path: Path) -> None:
    """Raises UserError where nothing can be written into the folder `path`, which need not exist yet."""
    with _explained(option, path):
        _check_room(option, path)


def check_complete_folder(option: str, path: Path) -> None:
    """Raises UserError where `complete_folder` cannot put the folder `path`: it writes next to it as well."""
    check_folder(option, path)
    place = path.resolve()
    for obstacle, is_there in (("the folder you are in", place == Path.cwd()), ("where a disk is", place.is_mount())):
        if is_there:
            raise UserError(f"{option} {path} is {obstacle}; name a folder in it, such as {path / 'model'}")
    with _explained(option, path):
        _check_room(option, place.parent)


def _check_room(option: str, path: Path) -> None:
    above = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not above.is_dir():
        raise UserError(f"{option} {path}: {above} is a file, not a folder; name another place")
    tempfile.TemporaryFile(dir=above).close()


@contextmanager
def _explained(option: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise UserError(f"{option} {path} cannot be written: {fault.strerror}; name another place") from None


@contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into. It replaces `path` at the end; after a failure `path` is unchanged."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    new = aside / "new"
    new.mkdir()
    try:
        yield new
        if path.exists():
            path.rename(aside / "old")
        new.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
