"""The stages of `prepare` in tasks.

read      a task for each group of files: documents, filters, tokens, and with near-duplicates their signatures
pairs     MinHash: a task for each of its buckets: documents that resemble each other
groups    one task: of each group of them all but one are to go
write     one task: the tokens of all the others, in order, as shards
"""

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupSignature,
)
from loguru import logger

from model.errors import UserError
from pretrain.data.text.options import PrepareOptions, Progress
from pretrain.data.text.reading import Input
from pretrain.data.text.tasks.executors import LocalTasks, SlurmTasks, TaskFailed, jobs_called, slurm_tasks
from pretrain.data.text.tasks.filters import make_filters
from pretrain.data.text.tasks.steps import KeepTokens, ReadDocuments, WriteCorpus
from pretrain.data.text.tasks.words import Words

Show = Callable[[Progress], None]
_SECONDS_BETWEEN_LOOKS = 2.0


@dataclass(frozen=True)
class Stage:
    name: str
    pipeline: list
    num_tasks: int


def run_tasks(options: PrepareOptions, inputs: list[Input], progress: Show) -> dict:
    """Does what is not done yet of a corpus whose directory and tokenizer are there. Returns its manifest."""
    assert options.output is not None
    directory = options.output.absolute()
    logger.disable("datatrove")  # here; each task has a log
    try:
        if options.executor == "slurm":
            _by_slurm(options, stages(options, inputs), directory, progress)
        else:
            _here(options, stages(options, inputs), directory / "tasks", progress)
    except TaskFailed:
        raise
    except UserError:
        if not any((directory / "tasks/parts").glob("*.part")) or not (directory / "state.json").exists():
            shutil.rmtree(directory)  # nothing to resume from
        raise
    shutil.rmtree(directory / "tasks")
    return json.loads((directory / "manifest.json").read_text("utf-8"))


def stages(options: PrepareOptions, inputs: list[Input]) -> list[Stage]:
    assert options.output is not None
    folder = options.output.absolute() / "tasks"
    if tokenized := [source.name for source in inputs if source.is_tokenized]:
        raise UserError(f"{tokenized[0]} is tokenized already, so tasks have nothing to do; prepare it without them")
    groups = group_inputs(inputs, options.task_mb * 1_000_000)
    _stay_with(groups, folder / "files.json")
    reader = ReadDocuments(groups, options)
    filters = make_filters(options.filters)
    read = [reader, *filters, KeepTokens(reader, filters, options, folder / "parts")]
    result = [Stage("read", read, len(groups))]
    removed = folder / "removed"
    if options.near_duplicates:
        config = MinhashConfig()
        signatures, pairs = str(folder / "signatures"), str(folder / "pairs-found")
        read.append(MinhashDedupSignature(signatures, config, Words()))
        result.append(Stage("pairs", [MinhashDedupBuckets(signatures, pairs, config=config)], config.num_buckets))
        result.append(Stage("groups", [MinhashDedupCluster(pairs, str(removed), config)], 1))
    writer = WriteCorpus(inputs, len(groups), options, folder / "parts", removed)
    return [*result, Stage("write", [writer], 1)]


def group_inputs(inputs: list[Input], task_bytes: int) -> list[list[Input]]:
    """What each task reads: consecutive inputs, about `task_bytes` together. Known without reading them."""
    groups: list[list[Input]] = []
    size = 0
    for source in inputs:
        num_bytes = task_bytes if source.num_bytes is None else source.num_bytes
        if not groups or size + num_bytes > task_bytes:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += num_bytes
    return groups


def _stay_with(groups: list[list[Input]], file: Path) -> None:
    """Tasks that are done are of the same files. Raises UserError where they are not."""
    names = [[source.name for source in group] for group in groups]
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(names), "utf-8")
    elif json.loads(file.read_text("utf-8")) != names:
        raise TaskFailed(f"{file.parent.parent} was begun with another task_mb; give that again, or remove it")


def _here(options: PrepareOptions, all_stages: list[Stage], folder: Path, progress: Show) -> None:
    for stage in all_stages:
        executor = LocalTasks(
            stage.pipeline, stage.num_tasks, min(options.workers, stage.num_tasks), str(folder / stage.name)
        )
        shown = Progress(stage.name, None)

        def report(executor: LocalTasks = executor, shown: Progress = shown) -> None:
            shown.tasks = executor.num_done, executor.tasks
            progress(shown)

        executor.run_all(report)


def _by_slurm(options: PrepareOptions, all_stages: list[Stage], directory: Path, progress: Show) -> None:
    """Submits the stages, each after the one before, and waits. Jobs of an earlier call that still run go on."""
    digest = hashlib.blake2b(str(directory).encode(), digest_size=4).hexdigest()
    name = f"prepare-{directory.name}-{digest}"
    sbatch = dict(option.split("=", 1) for option in options.sbatch)
    executors: list[SlurmTasks] = []
    for stage in all_stages:
        folder = str(directory / "tasks" / stage.name)
        after = executors[-1] if executors else None
        how = (folder, name, options.num_workers, sbatch, after)
        executors.append(slurm_tasks(stage.pipeline, stage.num_tasks, all_stages[0].num_tasks, *how))
    if not jobs_called(name):
        executors[-1].run()  # and those that it depends on
    shown = {stage.name: Progress(stage.name, None) for stage in all_stages}
    while jobs := jobs_called(name):
        if all(reason == "DependencyNeverSatisfied" for _, reason in jobs):
            subprocess.run(["scancel", *(number for number, _ in jobs)], check=True)
        for stage, executor in zip(all_stages, executors, strict=True):
            shown[stage.name].tasks = executor.num_done, stage.num_tasks
            if executor.num_done < stage.num_tasks:
                progress(shown[stage.name])
                break
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    for stage, executor in zip(all_stages, executors, strict=True):
        if left := executor.get_incomplete_ranks():
            raise executor.failure(
                f"{len(left)} of {stage.num_tasks} tasks of stage {stage.name} of prepare failed; their logs are in "
                f"{directory}/tasks/{stage.name}"
            )
