"""The faults of the campaign (campaign.py): what each breaks, at which moment, and what mends it."""

import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.machines import Machine
from tests.whole.slurm.watched import Watched


@dataclass(frozen=True)
class Fault:
    hit: Callable[[Watched, Sequence[Machine]], None]
    """Breaks these nodes of the run, or the job."""
    start_again: Callable[[Watched], None] | None = None
    """For a job that ended, or waits in the queue. All nodes are repaired once the run trains again."""
    nodes: int = 0
    """How many it breaks, besides the first."""
    restarts: bool = True
    """Whether the run starts again."""
    moments: tuple[str, ...] = ("step",)


# ---- nodes ----


def power_off(run: Watched, nodes: Sequence[Machine]) -> None:
    """Nobody closes the connections."""
    for node in nodes:
        node.cut()
        node.kill()


def freeze(run: Watched, nodes: Sequence[Machine]) -> None:
    for node in nodes:
        node.signal(signal.SIGSTOP)


def slow_link(run: Watched, nodes: Sequence[Machine]) -> None:
    nodes[0].limit("2mbit")
    time.sleep(10)


def power_off_first(run: Watched, nodes: Sequence[Machine]) -> None:
    first = run.first()
    power_off(run, [first])
    _declare_down(run, first)


def freeze_first(run: Watched, nodes: Sequence[Machine]) -> None:
    first = run.first()
    freeze(run, [first])
    _declare_down(run, first)


def cut_first(run: Watched, nodes: Sequence[Machine]) -> None:
    """From SLURM and the other nodes; not from the disk."""
    first = run.first()
    first.cut()
    _declare_down(run, first)


def _declare_down(run: Watched, first: Machine) -> None:
    """SLURM takes SlurmdTimeout, 300 s here, to notice. The others are used, though declared down before."""
    for node in run.cluster.nodes:
        run.cluster.resume(node.name)
    run.cluster.declare_down(first)


def start_elsewhere(run: Watched) -> None:
    """While what ran on the first node may live on."""
    others = len(run.cluster.nodes) - 1
    run.until(
        lambda: run.cluster.num_idle() >= others or run.cluster.state(run.job) == "RUNNING", "idle nodes", every=0.5
    )
    run.cluster.wait(run.job, "PENDING", "RUNNING", timeout=200)
    if run.cluster.state(run.job) != "RUNNING":
        run.cluster.start_now(run.job)


def queue_again(run: Watched) -> None:
    run.repair_all()
    run.cluster.wait(run.job, "PENDING", timeout=200)
    run.cluster.wait_for_nodes()
    run.cluster.start_now(run.job)


# ---- jobs ----


def preempt(run: Watched, nodes: Sequence[Machine]) -> None:
    """SIGTERM, five seconds, back into the queue, and SIGKILL."""
    run.cluster.signal(run.job, "TERM")
    time.sleep(5)
    run.cluster.attempt("scontrol", "requeue", run.job)  # refused where the run has done it by itself
    for node in run.nodes():
        node.signal(signal.SIGKILL, "pretrain")


def requeue(run: Watched, nodes: Sequence[Machine]) -> None:
    run.cluster.run("scontrol", "requeue", run.job)


def cancel(run: Watched, nodes: Sequence[Machine]) -> None:
    run.cluster.cancel(run.job)


def submit_again(run: Watched) -> None:
    run.repair_all()
    run.cluster.wait(run.job, "CANCELLED", "FAILED", timeout=200)
    run.cluster.wait_for_nodes()
    run.submit()


# ---- the shared disk ----


def hang_disk(run: Watched, nodes: Sequence[Machine]) -> None:
    """No write to it returns for 20 seconds."""
    with frozen(run.disk):
        time.sleep(20)


class frozen:
    def __init__(self, disk: Path):
        self.disk = str(disk)

    def __enter__(self) -> None:
        subprocess.run(["fsfreeze", "--freeze", self.disk], check=True)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["fsfreeze", "--unfreeze", self.disk], check=True)


def fill_disk(run: Watched, nodes: Sequence[Machine]) -> None:
    with (run.disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while file.write(bytes(size)):
                        pass
            raise OSError


def empty_disk(run: Watched) -> None:
    """The run ends by itself when it cannot write a checkpoint."""
    run.cluster.wait(run.job, "FAILED", timeout=200)
    (run.disk / "filler").unlink()
    submit_again(run)


def make_read_only(run: Watched, nodes: Sequence[Machine]) -> None:
    """Between two jobs: the kernel refuses it while files are open. The next one is refused in one line."""
    cancel(run, nodes)
    run.cluster.wait(run.job, "CANCELLED", timeout=200)
    run.repair_all()
    _remount(run.disk, "ro")
    run.submit()


def make_writable(run: Watched) -> None:
    run.cluster.wait(run.job, "FAILED", timeout=200)
    assert run.cluster.exit_code(run.job) == 2, run.output()
    _remount(run.disk, "rw")
    submit_again(run)


def _remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


ANY_MOMENT = ("step", "start", "move", "checkpoint", "resume")

FAULTS = {
    "node without power": Fault(power_off, nodes=1, moments=ANY_MOMENT),
    "node frozen": Fault(freeze, nodes=1, moments=ANY_MOMENT),
    "node cut off": Fault(lambda _, nodes: nodes[0].cut(), nodes=1, moments=ANY_MOMENT),
    "node cut off, inwards": Fault(lambda _, nodes: nodes[0].cut("in"), nodes=1),
    "node cut off, outwards": Fault(lambda _, nodes: nodes[0].cut("out"), nodes=1),
    "two nodes without power": Fault(power_off, nodes=2),
    "link of 2 Mbit/s for 10 s": Fault(slow_link, nodes=1, restarts=False),
    "slurmd killed": Fault(
        lambda run, nodes: run.cluster.kill_slurmd(nodes[0]), nodes=1, restarts=False
    ),
    "first node without power": Fault(power_off_first, queue_again),
    "first node frozen, job restarts elsewhere": Fault(freeze_first, start_elsewhere),
    "first node cut off, job restarts elsewhere": Fault(cut_first, start_elsewhere),
    "preempted, 5 s of grace": Fault(preempt, queue_again),
    "requeued": Fault(requeue, queue_again),
    "scancel, submitted again": Fault(cancel, submit_again),
    "disk hangs for 20 s": Fault(hang_disk, restarts=False),
    "disk full": Fault(fill_disk, empty_disk),
    "disk read-only": Fault(make_read_only, make_writable),
}  # fmt: skip
MORE_OFTEN = ("node without power", "node without power", "node frozen", "node cut off")


def reach(run: Watched, moment: str, draw: random.Random) -> str:
    """Waits for a moment of the run; the one that it was. No move is ahead once the last stage has begun."""
    if moment == "move":
        boundary = next((end for end in run.boundaries if end > run.step()), None)
        if boundary:
            run.until(lambda: run.step() >= boundary, "the end of a stage")
            time.sleep(draw.uniform(0, 1))
            return moment
        moment = "step"
    if moment == "checkpoint":
        run.until(
            lambda: any(run.folder.glob("checkpoints/*.partial")), "a checkpoint that is being written", every=0.01
        )
    elif moment == "step":
        run.train(draw.randint(1, 20))
        time.sleep(draw.uniform(0, 0.3))
    else:  # asked for by the file that asks a run to leave at its next checkpoint
        run.train(1)
        starts, leases = run.output().count("the run continues on"), len(run.leases())
        (run.folder / "regroup").touch()
        run.until(lambda: run.output().count("the run continues on") > starts, "a start")
        if moment == "resume":
            run.until(lambda: len(run.leases()) > leases, "a new lease")
        time.sleep(draw.uniform(0, 8 if moment == "start" else 1))
    return moment


def drawn(run: Watched, draw: random.Random, deck: list[str]) -> tuple[str, list[Machine], str]:
    """A kind of fault that the run has enough nodes for, the nodes that it hits, and its moment.

    Kinds are drawn without replacement; once none is left that is possible, the deck is refilled and shuffled.
    """
    others = run.nodes()[1:]

    def possible() -> list[str]:
        return [kind for kind in deck if FAULTS[kind].nodes <= len(others)]

    if not possible():
        deck += draw.sample([*FAULTS, *MORE_OFTEN], len(FAULTS) + len(MORE_OFTEN))
    kind = possible()[0]
    deck.remove(kind)
    return kind, draw.sample(others, FAULTS[kind].nodes), draw.choice(FAULTS[kind].moments)
