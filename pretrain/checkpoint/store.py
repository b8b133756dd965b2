"""The checkpoints of one run: writing them in the background, dropping old ones, finding the newest intact one."""

import errno
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growth.state import TrainingState
from model.errors import UserError
from model.lazy import dist
from pretrain.checkpoint.files import find_damage, read_checkpoint, write_index, write_part
from pretrain.checkpoint.lineage import overtaken_by, start_of
from pretrain.checkpoint.parts import Parts
from pretrain.checkpoint.tensors import NOBODYS, replace_text, sync_folder
from pretrain.engine.agreement import from_rank_0, raise_together, read_once
from pretrain.lease import PARTIAL, Start

LATEST, DAMAGED = "latest", ".damaged"
STEP, STEP_NAME = "step-{:08d}", r"step-\d{8}"
FAILED = "failed"
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Written:
    """A finished checkpoint, as rank 0 saw it."""

    path: Path
    num_bytes: int
    """Size of the tensors, over all ranks."""
    seconds: float
    """From the start of the background thread to the checkpoint being complete on disk."""


class CheckpointStore:
    """Saves states into a run's `checkpoints` folder. Every rank makes one; all ranks call `save` and `flush` together.

    A background thread on each rank writes that rank's part under a temporary name. Rank 0's waits for all parts,
    writes the index, renames the folder and moves `latest`. Threads tell each other through the process group's
    key-value store, so they take no part in collectives. `start` is the start of the run that saves: it is in the
    temporary name and in the index, and only the newest start's checkpoints get a name.
    """

    def __init__(
        self,
        folder: Path,
        keep_last: int = 2,
        keep_every: int = 0,
        in_background: bool = True,
        start: Start = NOBODYS,
    ):
        self.folder, self.keep_last, self.keep_every, self.in_background = folder, keep_last, keep_every, in_background
        self.start = start
        self.written: Written | None = None
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._num_saved = 0

    def save(self, step: int, state: TrainingState, run: dict[str, Any], name: str = "") -> None:
        """Returns once the thread has the state, which must not change afterwards. Collective.

        With a `name` the checkpoint is kept permanently, next to those of the steps. Raises Stop on all ranks when the
        previous one could not be written or there is no room for this one.
        """
        from pretrain.checkpoint.even import evenly

        path = self.folder / (name or STEP.format(step))
        raise_together(self._finished())
        num_bytes = state.nbytes_of_all()
        raise_together(self._prepare(path, num_bytes) if dist.get_rank() == 0 else None)
        self._num_saved += 1
        self.written = None
        run = {**run, "start": self.start.number}
        parts = evenly(state)
        self._thread = threading.Thread(
            target=self._write, args=(path, parts, run, num_bytes), name="checkpoint", daemon=True
        )
        self._thread.start()
        if not self.in_background:
            self.flush()

    def flush(self) -> None:
        """Waits until the last `save` is on disk. Collective. Raises Stop on all ranks if it failed on any."""
        if self._thread is not None:
            raise_together(self._finished())

    def _finished(self) -> Exception | None:
        """Waits for this rank's thread. What it failed of."""
        if self._thread is not None:
            self._thread.join()
        error, self._thread, self._error = self._error, None, None
        return error

    def _prepare(self, path: Path, num_bytes: int) -> Exception | None:
        partial = self.start.partial(path)
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            free = shutil.disk_usage(partial).free
        except OSError as error:
            return _explained(path, error)
        if free < num_bytes:
            return UserError(
                f"no room for checkpoint {path.name}: it takes {num_bytes / 1e9:.1f} GB, {self.folder} has "
                f"{free / 1e9:.1f} GB free; earlier checkpoints are untouched: make room and start again"
            )
        return None

    def _write(self, path: Path, parts: Parts, run: dict[str, Any], num_bytes: int) -> None:
        began = time.perf_counter()
        partial = self.start.partial(path)
        rank, store, key = dist.get_rank(), _store(), f"checkpoint/{self._num_saved}"
        try:
            checksum = write_part(partial, rank, parts)
            if checksum is not None:
                store.set(f"{key}/{rank}", checksum)
            if rank == 0:
                sums = _await_parts(store, key, sorted(set(parts.writers.values())))
                write_index(partial, parts, run, sums)
                _complete(path, self.start)
                _drop_old(self.folder, self.keep_last, self.keep_every, self.start)
                self.written = Written(path, num_bytes, time.perf_counter() - began)
        except Exception as error:
            self._error = _explained(path, error)
            store.set(f"{key}/{rank}", FAILED)


def _store() -> Any:
    """The process group's. Nothing waits in a call of it: the main thread, and others, use the same connection."""
    return dist.distributed_c10d._get_default_store()


def _await_parts(store: Any, key: str, writers: list[int]) -> dict[int, str]:
    """{rank: checksum} once every rank that has a part has written it."""
    keys = [f"{key}/{rank}" for rank in writers]
    while not store.check(keys):
        time.sleep(POLL_SECONDS)
    messages = [message.decode() for message in store.multi_get(keys)]
    for each in keys:
        store.delete_key(each)
    if FAILED in messages:
        raise OSError(f"rank {writers[messages.index(FAILED)]} could not write its part")
    return dict(zip(writers, messages, strict=True))


def load_newest(
    folder: Path, report: Callable[[str], None] = lambda line: None, before: int | None = None
) -> tuple[Path, TrainingState, dict[str, Any]] | None:
    """The newest intact checkpoint of a run, up to the one that `latest` names; None when there is none yet, or none of
    a step `before` the given one.

    Damaged ones are reported, set aside and skipped. Collective. Raises Stop on all ranks when all are damaged, now or
    at an earlier start.
    """
    candidates: list[Path] = []
    had_others = False
    if dist.get_rank() == 0:
        for partial in filter(Path.is_dir, folder.glob("*" + PARTIAL)):
            report(f"{partial} was being written when the run stopped; it is deleted")
            shutil.rmtree(partial, ignore_errors=True)
        candidates = _candidates(folder, report)
        had_others = any(folder.glob("step-*" + DAMAGED))
    candidates, had_others = from_rank_0((candidates, had_others))
    candidates = [path for path in candidates if before is None or path.name < STEP.format(before)]
    for path in candidates:
        damage = find_damage(path)
        if damage is None:
            return path, *read_checkpoint(path)
        dist.barrier()  # every rank has looked at it
        if dist.get_rank() == 0:
            report(f"checkpoint {path} is damaged: {damage}; it is set aside as {path.name}{DAMAGED}")
            shutil.rmtree(path.with_name(path.name + DAMAGED), ignore_errors=True)
            path.rename(path.with_name(path.name + DAMAGED))
    if before is None and (candidates or had_others):
        raise_together(UserError(f"every checkpoint in {folder} is damaged; start a new run, or restore one of them"))
    return None


def newest_name(folder: Path) -> str:
    """Of the newest checkpoint that a run may resume from; empty if there is none."""
    return next((path.name for path in _candidates(folder, lambda line: None)), "")


def _candidates(folder: Path, report: Callable[[str], None]) -> list[Path]:
    """The checkpoints that a run may resume from, newest first: up to the one that `latest` names, if any is there."""
    latest, valid = _read_latest(folder), []
    for path in reversed(checkpoints_of(folder)):
        newer = overtaken_by(path)
        if newer is None:
            valid.append(path)
        else:
            report(f"checkpoint {path} is ignored: start {newer.start} began at step {newer.began_at}, without it")
    return [path for path in valid if latest is None or path.name <= latest] or valid


def restore_from_twin(folder: Path, name: str, step: int, start: Start) -> bool:
    """Makes the checkpoint `name` again from the one of the step at which it was saved, which holds the same state.
    False if there is none, or it is damaged. Collective."""
    twin = folder / STEP.format(step)
    if not read_once(twin.is_dir) or find_damage(twin) is not None:
        return False
    error = None
    if dist.get_rank() == 0:
        partial = start.partial(folder / name)
        try:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(twin, partial)
            _complete(folder / name, start)
        except OSError as fault:
            error = _explained(partial, fault)
    raise_together(error)
    return True


def find_checkpoint(path: Path) -> Path:
    """A checkpoint folder, given itself or a run's folder (its latest)."""
    if not path.is_dir():
        raise UserError(f"checkpoint {path} does not exist; name a run's folder or one of its checkpoints/step-N")
    for folder in (path / "checkpoints", path):
        latest = _read_latest(folder)
        if latest is not None:
            return folder / latest
        for newest in reversed(checkpoints_of(folder)):
            if not overtaken_by(newest):
                return newest
    return path


def checkpoints_of(folder: Path) -> list[Path]:
    """The complete checkpoints of the steps, oldest first."""
    return sorted(folder.glob("step-" + "[0-9]" * 8))


def _complete(path: Path, start: Start) -> None:
    """Gives a written folder its name, then moves `latest` to it."""
    sync_folder(start.partial(path))
    try:
        start.finish(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _remove(path, start)  # the same step, saved before a resume from an earlier one
        start.finish(path)
    sync_folder(path.parent)
    if path.name.startswith("step-"):
        replace_text(path.parent / LATEST, path.name + "\n", start)


def _drop_old(folder: Path, keep_last: int, keep_every: int, start: Start) -> None:
    """Deletes all but the newest `keep_last` and every `keep_every` steps; named checkpoints stay."""
    latest = _read_latest(folder)
    old = [path for path in checkpoints_of(folder) if latest is not None and path.name < latest]
    overtaken = [path for path in old if overtaken_by(path)]
    old = [path for path in old if path not in overtaken]
    for path in old[: max(len(old) - (keep_last - 1), 0)]:
        step = int(path.name.removeprefix("step-"))
        if not (keep_every and step % keep_every == 0):
            _remove(path, start)
    for path in overtaken:
        _remove(path, start)


def _remove(path: Path, start: Start) -> None:
    """Deletes a checkpoint of this start or an older one. Should a newer one have put its own there, it stays."""
    start.check()
    aside = start.partial(path.with_name(path.name + ".dropped"))
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    if (start_of(aside) or 0) > start.number:
        aside.rename(path)
        start.check()
        raise FileExistsError(errno.EEXIST, "a newer start of the run has saved it", str(path))
    shutil.rmtree(aside)


def _read_latest(folder: Path) -> str | None:
    """The name in `latest`; None where there is none, something else is in it, or it names what no longer counts."""
    try:
        name = (folder / LATEST).read_text("utf-8").strip()
    except (OSError, ValueError):
        return None
    return name if re.fullmatch(STEP_NAME, name) and not overtaken_by(folder / name) else None


def _explained(path: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UserError(
        f"checkpoint {path.name} could not be written to {path.parent}: {reason}; "
        "earlier checkpoints are untouched: fix that and start again"
    )
