"""Who does the tasks of a stage: processes of this machine, or jobs of SLURM. Both are datatrove's executors.

datatrove marks each finished task in `logging_dir`/completions, and leaves those out when a stage is run again.
"""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from multiprocessing import connection, get_context
from multiprocessing.context import ForkProcess
from typing import Any

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.utils.stats import PipelineStats
from loguru import logger

from model.errors import UserError
from pretrain.launch import leash
from pretrain.settings.plugins import load_plugins, names_of_loaded

_SECONDS_BETWEEN_LOOKS = 0.5
_MAX_ARRAY = 1000
"""Entries of a job array; SLURM's own limit is 1,001 unless a site has set another."""


class TaskFailed(UserError):
    """Not by a mistake that a task could name: done again, it may succeed."""


class _SaysWhy(PipelineExecutor):
    """A user's mistake that a task finds is left for the process that waits for it."""

    def begin(self) -> None:
        """Before each task, in its process."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        try:
            self.begin()
            return super()._run_for_rank(rank, local_rank, node_rank)
        except UserError as error:
            with self.logging_dir.open(f"errors/{rank:05d}", "w") as file:
                file.write(str(error))
            raise

    def failure(self, otherwise: str) -> UserError:
        """The first mistake that a task has found; without one, that they failed."""
        for file in self.logging_dir.list_files("errors") if self.logging_dir.exists("errors") else []:
            return UserError(self.logging_dir.open(file, "r").read())
        return TaskFailed(f"{otherwise}; the same command does again what is not done")

    @property
    def num_done(self) -> int:
        return self.world_size - len(self.get_incomplete_ranks(skip_completed=True))


class LocalTasks(_SaysWhy, LocalPipelineExecutor):
    """A process for each task. datatrove's own are a pool, which waits for ever for a task whose process was killed;
    here that task is done once more."""

    def run_all(self, report: Callable[[], None]) -> None:
        """Raises UserError when a task fails, or is killed twice."""
        waiting, killed = deque(self.get_incomplete_ranks()), set()
        running: dict[int, tuple[int, ForkProcess]] = {}
        fork = get_context("fork")  # shares the parent's imports
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    task = waiting.popleft()
                    process = fork.Process(target=self._do, args=(task, os.getpid()))
                    process.start()
                    running[process.sentinel] = task, process
                for sentinel in connection.wait(list(running), _SECONDS_BETWEEN_LOOKS):
                    assert isinstance(sentinel, int)
                    task, process = running.pop(sentinel)
                    process.join()
                    assert process.exitcode is not None
                    if process.exitcode == 0:
                        continue
                    if process.exitcode > 0 or task in killed:
                        raise self.failure(self._how(task, process.exitcode))
                    killed.add(task)
                    waiting.append(task)
                report()
        finally:
            for _, process in running.values():
                process.kill()
                process.join()

    def _do(self, task: int, parent: int) -> None:
        leash.die_with_parent(parent)
        os.setpgid(0, 0)  # Ctrl-C is for the parent, which ends its tasks
        logger.enable("datatrove")
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  the log of the task says the same
        self._run_for_rank(task)

    def _how(self, task: int, exitcode: int) -> str:
        how = "was killed twice, perhaps for memory" if exitcode < 0 else "failed"
        return f"task {task} of prepare {how}; its log is {self.logging_dir.resolve_paths(f'logs/task_{task:05d}.log')}"


class SlurmTasks(_SaysWhy, SlurmPipelineExecutor):
    """A job array; SLURM does a task again whose node has died. The job's own tables take the place of datatrove's."""

    plugins: tuple[str, ...]

    def begin(self) -> None:
        """Tasks are pickled without the code of plugins, which they load by name."""
        load_plugins(self.plugins)

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """Without what nobody has asked for: the cluster has defaults of its own."""
        arguments = super().get_sbatch_args(max_array)
        not_asked_for = {"mem-per-cpu", "qos", "partition", "time"} - set(self._sbatch_args)
        return {name: value for name, value in arguments.items() if name not in not_asked_for}

    def launch_merge_stats(self) -> None:
        pass


def slurm_tasks(
    pipeline: list,
    tasks: int,
    num_jobs: int,
    folder: str,
    name: str,
    at_once: int | None,
    sbatch: dict[str, str],
    after: SlurmTasks | None,
) -> SlurmTasks:
    """An array of at most `num_jobs` jobs, `at_once` at a time, once those of `after` are done."""
    jobs = SlurmTasks(
        pipeline,
        tasks=tasks,
        time="",
        partition="",
        workers=at_once or -1,
        job_name=name,
        sbatch_args=sbatch,
        max_array_size=_MAX_ARRAY,
        tasks_per_job=-(-tasks // min(num_jobs, _MAX_ARRAY)),
        depends=after,
        logging_dir=folder,
    )
    jobs.plugins = names_of_loaded()
    return jobs


def jobs_called(name: str) -> list[tuple[str, str]]:
    """The user's jobs of that name that wait or run: number, and why one waits."""
    command = ["squeue", "--noheader", "--me", f"--name={name}", "--format=%A %r"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [(number, reason) for number, _, reason in (line.partition(" ") for line in listed.splitlines())]
