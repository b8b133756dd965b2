"""What a lease says, and what its own machine knows of the process that holds it."""

import json
import os
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from pretrain.launch.job import job_name

LEASES = "leases"
"""The folder of them in a run's folder."""

RENEWAL_SECONDS = 2.0
LEASE_SECONDS = 20.0
"""How long a lease may stand still before it is over."""

FILE_BYTES = 1024
"""Every lease fills as many, so that it is renewed in place, which takes no room on a full disk."""


@dataclass(frozen=True)
class Lease:
    start: int
    """The number of the start, counted from 1."""
    job: str | None = None
    """SLURM's number of the job, or where its hosts meet without SLURM; None outside a job."""
    requeued: str | None = None
    """How often SLURM has put the job back into the queue."""
    step: str | None = None
    """SLURM's, of the job."""
    host: str = ""
    process: int = 0
    process_began: str | None = None
    """In clock ticks since its kernel booted: tells it from a later process of the same number."""
    machine: str | None = None
    """The kernel and the process namespace in which that number means something; None where they are unknown."""
    since: str = ""
    """When it was claimed, by the clock of the host, for people."""
    seconds: float = LEASE_SECONDS
    renewals: int = 0
    began_at: int | None = None
    """The step at which this start began to train; None until then."""
    ended: bool = False
    """Whether it was given back."""

    @property
    def holder(self) -> str:
        """For messages."""
        job = f", job {self.job}" if self.job else ""
        step = f", step {self.step}" if self.step else ""
        return f"start {self.start}, process {self.process} on {self.host}, since {self.since}{job}{step}"

    def text(self) -> str:
        return json.dumps(asdict(self)).ljust(FILE_BYTES - 1) + "\n"


def lease_of_this_process(start: int) -> Lease:
    return Lease(
        start,
        job_name(),
        os.environ.get("SLURM_RESTART_COUNT", "0"),
        os.environ.get("SLURM_STEP_ID"),
        os.uname().nodename,
        os.getpid(),
        _beginning(os.getpid()),
        _machine(),
        time.strftime("%F %T"),
        LEASE_SECONDS,
    )


def file_of(folder: Path, start: int) -> Path:
    return folder / f"{start:05d}.json"


def request_to(folder: Path, start: int) -> Path:
    """The file by which a later start of its job asks a start to save and end."""
    return folder / f"{start:05d}.leave"


def numbers(folder: Path) -> list[int]:
    """Of the leases in a folder, in order."""
    with suppress(OSError):
        return sorted(int(name[:-5]) for name in os.listdir(folder) if re.fullmatch(r"\d{5,}\.json", name))
    return []


def read_leases(folder: Path) -> list[Lease]:
    """All that were ever claimed, oldest first."""
    return [read_lease(folder, number) for number in numbers(folder)]


def newest_lease(folder: Path) -> Lease | None:
    """That of the start which holds the run now, or held it last."""
    found = numbers(folder)
    return read_lease(folder, found[-1]) if found else None


def read_lease(folder: Path, start: int) -> Lease:
    """One whose file cannot be read is being claimed, or its start died over it: it says only what others rely on."""
    try:
        values = json.loads(file_of(folder, start).read_bytes())
        known = {field.name for field in fields(Lease)}
        return replace(Lease(start), **{key: value for key, value in values.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return Lease(start)


def is_gone(lease: Lease) -> bool:
    """Whether the process that holds a lease has ended, as far as this machine can tell: it sees only its own."""
    if lease.machine is None or lease.machine != _machine():
        return False
    try:
        os.kill(lease.process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's
    beginning = _beginning(lease.process)
    return beginning is not None and beginning != lease.process_began


def _machine() -> str | None:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return None


def _beginning(process: int) -> str | None:
    """When a process began; "ended" for one that is dead and waits for its parent to notice, None if unknown."""
    with suppress(OSError, IndexError):
        state = Path(f"/proc/{process}/stat").read_bytes().rpartition(b") ")[2].split()
        return "ended" if state[0] in (b"Z", b"X") else state[19].decode()
    return None
