"""The verb `profile`: measures a stage, a sweep of settings, or scaling."""

import json
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from model.errors import UserError
from pretrain.data import Corpus
from pretrain.launch.local import run_here
from pretrain.launch.requests import PASSED_ON
from pretrain.launch.slurm import Job, Task
from pretrain.launch.start import expected_ranks
from pretrain.launch.survivors import run_job
from pretrain.launch.tolerance import Tolerance
from pretrain.profile.measurement import OUT_OF_MEMORY, Measurement
from pretrain.profile.memory_limit import OutOfMemory, check_memory
from pretrain.profile.page import write_page
from pretrain.profile.rows import check_stage
from pretrain.profile.tables import say_measured
from pretrain.recipe import Run, load_recipe, resolve


@dataclass(frozen=True)
class Profile:
    """A recipe and what to measure of it."""

    recipe: str
    overrides: tuple[str, ...]
    stage: int
    nproc: int | None
    """Ranks on each node; None: one for each GPU in a SLURM job, else one."""
    steps: int
    out: Path
    profiled: int = 3
    """Steps more under the profiler; 0: no breakdown and no trace."""
    memory_gib: float | None = None
    """What the ranks of a node may hold together; None: what a CPU machine has, and whatever GPUs hold."""
    here: bool = False
    """On this machine alone, even within a SLURM job of several nodes."""

    def run(self, label: str, overrides: Sequence[str] = (), nproc: int | None = None) -> Measurement:
        """One configuration in separate processes. Raises UserError when the recipe or memory does not allow it."""
        overrides = (*self.overrides, *overrides)
        run = self.resolved(overrides, nproc)
        num_nodes = self._job.num_nodes if self._job else 1
        check_memory(run.stages[self.stage], run.num_ranks // num_nodes, self.memory_gib)
        file = self.out / f"{label}.json"
        command = ["pretrain.profile.measure", self.recipe, "--out", str(file), "--stage", str(self.stage)]
        command += ["--steps", str(self.steps), "--profiled", str(self.profiled), "--overrides", *overrides]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        log = file.with_suffix(".log")
        code = self._start(command, nproc, log)
        if code - 128 in (signal.SIGINT, *PASSED_ON):
            raise SystemExit(code)  # the user ends the whole sweep, not this configuration
        if code == OUT_OF_MEMORY:
            raise OutOfMemory("memory does not hold it")
        if code:
            told = f"its output is in {log}" if log.exists() else "its output is above"
            raise UserError(f"profile of {label} failed (exit code {code}); {told}")
        log.unlink(missing_ok=True)
        return Measurement.read(file)

    def resolved(self, overrides: Sequence[str] = (), nproc: int | None = None) -> Run:
        """The recipe with these overrides alone, checked."""
        run = resolve(load_recipe(self.recipe, overrides), self.vocab_size(overrides), self.ranks(nproc))
        check_stage(run, self.stage)
        return run

    def ranks(self, nproc: int | None = None) -> int:
        """On all nodes."""
        nproc = nproc or self.nproc
        return expected_ranks(nproc) if self._job else nproc or 1

    def vocab_size(self, overrides: Sequence[str] = ()) -> int:
        """Of the recipe's corpus. Raises UserError where there is none."""
        return Corpus.open(load_recipe(self.recipe, overrides or self.overrides).data.corpus).vocab_size

    @property
    def _job(self) -> Job | None:
        """All of whose nodes are measured."""
        return None if self.here else Job.from_environment()

    def _start(self, command: Sequence[str], nproc: int | None, log: Path) -> int:
        """The exit code. In a SLURM job the ranks of all its nodes print where the job does."""
        if self._job:
            return run_job(self._job, command, nproc or self.nproc, Tolerance())
        with log.open("wb") as output, Console(stderr=True).status(f"measuring {log.stem}; its ranks write to {log}"):
            return run_here(command, nproc or self.nproc or 1, output=output)

    def scaling(self, counts: Sequence[int]) -> dict[str, Measurement]:
        """Strong scaling (the recipe's global batch on every number of ranks) and weak (rows per rank kept)."""
        rows = self.resolved(self.overrides).stages[self.stage].global_batch
        found = {}
        for count in counts:
            weak = f"stages.{self.stage}.batch.global={rows * count // counts[0]}"
            for kind, overrides in (("strong", []), ("weak", [weak])):
                label = f"{kind}, {count} ranks"
                found[label] = self.run(f"{kind}-{count}", overrides, nproc=count)
                say_measured(label, found[label])
        return found


def check_place() -> None:
    """Raises UserError where each task of a step would measure for itself."""
    task = Task.from_environment()
    if task and len(task.nodes) > 1:
        raise UserError(
            "profile starts the tasks of a job's nodes itself: give sbatch or salloc this command, not srun"
        )


def save(found: dict[str, Measurement], out: Path, title: str) -> None:
    """profile.json and profile.html."""
    out.mkdir(parents=True, exist_ok=True)
    values = {label: asdict(result) for label, result in found.items()}
    (out / "profile.json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    write_page(found, out / "profile.html", title)
    print(f"{out / 'profile.html'}, {out / 'profile.json'}; traces for Perfetto: {out}/*/rank-*.trace.json")
