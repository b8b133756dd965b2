"""The directory that `prepare` writes into: one process at a time, and nothing left there that cannot be continued."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from model.errors import UserError

STATE, MANIFEST = "state.json", "manifest.json"
_LOCK = "prepare.lock"
_WRITTEN_FIRST = {"tokenizer.json", "tokenizer.model", "vocab.txt", "seen.hashes", f"{STATE}.new", _LOCK}
_TRIES, _SECONDS_BETWEEN_TRIES = 20, 0.1  # the workers of a killed prepare hold its lock for a moment


@contextmanager
def opened(directory: Path) -> Iterator[None]:
    """Makes and locks the directory.

    Raises UserError when another prepare is at work there, it holds something else, or it cannot be written. A lock
    that is still there tells that what lies there was left by a prepare that was killed.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        was_left = (directory / _LOCK).exists()
        with _locked(directory):
            if not _can_be_continued(directory):
                others = {file.name for file in directory.iterdir()} - {_LOCK}
                if others and not (was_left and others <= _WRITTEN_FIRST):
                    raise UserError(f"{directory} is not empty and not a corpus; choose another output directory")
                _clear(directory)
            try:
                yield
            finally:
                if directory.is_dir() and not _can_be_continued(directory):
                    _clear(directory)
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
    except OSError as error:
        _remove_if_empty(directory)
        then = "the same command goes on from there" if _can_be_continued(directory) else "nothing was kept"
        raise UserError(f"cannot write to {directory}: {error.strerror or error}; {then}") from error
    except UserError:
        _remove_if_empty(directory)
        raise


def remove(directory: Path) -> None:
    """Deletes a directory that a later run could not resume from."""
    shutil.rmtree(directory)


def replace(file: Path, content: bytes) -> None:
    """Writes all of it or nothing."""
    temporary = file.with_name(file.name + ".new")
    try:
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _can_be_continued(directory: Path) -> bool:
    return (directory / STATE).is_file() or (directory / MANIFEST).is_file()


def _clear(directory: Path) -> None:
    for name in _WRITTEN_FIRST - {_LOCK}:
        (directory / name).unlink(missing_ok=True)


def _remove_if_empty(directory: Path) -> None:
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    path = directory / _LOCK
    file = _lock(path)
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _lock(path: Path) -> TextIO:
    for _ in range(_TRIES):
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file  # else the one who held it has removed it
        except BlockingIOError:
            file.seek(0)
            holder = file.read()
        file.close()
        time.sleep(_SECONDS_BETWEEN_TRIES)
    raise UserError(
        f"another prepare is at work in {path.parent} ({holder}); wait for its end, or choose another output directory"
    )
