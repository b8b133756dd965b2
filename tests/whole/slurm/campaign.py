"""Breaks nodes, links, the disk and the jobs of runs on the test cluster, and proves each time what is lost.

    python -m tests.whole.slurm.campaign --faults 40 --seed 1 --output faults.jsonl
    python -m tests.whole.slurm.campaign --table faults.jsonl ...

Four nodes of one rank train the tiny run through two moves between shapes, either without dropout, or with it and with
its state in memory between checkpoints. Faults (faults.py) follow one another in a run; then it is cancelled, and its
weights, moments, steps and losses must be those of a run that took the same steps on the same numbers of ranks without
a fault, bit for bit.

Writes a line of JSON for each fault: the seconds until it is noticed and until a step is taken again, the steps that
were lost, and how many processes of the time before are left. Then one for the run. A fault that the run does not
survive is a line, too.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from pretrain.recipe.load import load_recipe
from tests.support.cluster import Cluster
from tests.support.home import HOME
from tests.support.tiny import losses, same_bits, tiny_corpus, train_until, write_recipe
from tests.support.workers import pool
from tests.whole.slurm.faults import FAULTS, drawn, reach
from tests.whole.slurm.watched import Watched

NUM_NODES = 4
FAULTS_IN_A_RUN = (3, 4)
BOUNDARIES = (30, 60)
CHANGES = dict(
    stages=[
        {"name": "tied", "steps": 30},
        {"name": "untied", "steps": 30, "grow": "unshare"},
        {"name": "deep", "steps": 20_000, "grow": "stack", "shape": {"layers": 4}},
    ],
    batch={"global": 12, "micro": 2},
    checkpoint={"every": 10, "keep_last": 3},
    validation={"rows": 12, "every": 20},
    faults={"min_nodes": 1, "detect_seconds": 5, "restarts": 20},
    plugins=[str(Path(__file__).with_name("pace.py"))],
)
MODEL = dict(layers=2, hidden=32, heads=4, ffn=64, sharing=1, max_positions=32)
IN_MEMORY = {"checkpoint": {"every": 10, "keep_last": 3, "memory_every": 4}}
WITHOUT_DROPOUT = {"model": MODEL | {"hidden_dropout": 0.0, "attention_dropout": 0.0}}

NOTICED = re.compile(r"is lost:|continues on|goes back into the queue|SIG\w+ received|No space|Read-only|submit it")
"""In the output of a job: somebody has noticed."""

Line = dict[str, Any]


def campaign(scratch: Path, num_faults: int, seed: int, first: Sequence[str], kept: Path) -> Iterator[Line]:
    """Runs until there have been `num_faults`. One that fails takes its cluster and disk with it."""
    draw, deck = random.Random(seed), list(first)
    corpus = tiny_corpus(scratch).directory
    number, struck = 0, 0
    compared: list[Future[Line]] = []
    with ThreadPoolExecutor(1) as thread:  # runs are compared while the next one trains
        while struck < num_faults:
            with small_disk(scratch / f"disk-{number}") as disk, small_cluster(scratch, disk) as cluster:
                is_whole = True
                while struck < num_faults and is_whole:
                    folder, has_dropout = scratch / f"run-{number}", bool((seed + number) % 2)
                    folder.mkdir()
                    changes = CHANGES | (IN_MEMORY if has_dropout else WITHOUT_DROPOUT)
                    recipe = write_recipe(folder / "tiny.yaml", corpus, **changes)
                    run = Watched(cluster, recipe, disk / folder.name, disk, BOUNDARIES)
                    common: Line = {"seed": seed, "run": number, "dropout": has_dropout}
                    for line in broken_run(run, draw, deck, min(draw.randint(*FAULTS_IN_A_RUN), num_faults - struck)):
                        struck += "fault" in line
                        if "finished" in line:
                            compared.append(thread.submit(compare, common | line, folder))
                        else:
                            yield common | line
                        if "failed" in line:
                            is_whole = False
                            run.keep(kept / f"{seed}-{number}")
                    is_whole = is_whole and is_restored(cluster)
                    number += 1
                    while compared and compared[0].done():
                        yield compared.pop(0).result()
        yield from (future.result() for future in compared)


def broken_run(run: Watched, draw: random.Random, deck: list[str], num_faults: int) -> Iterator[Line]:
    """A line for each fault, and one for the run."""
    began = time.monotonic()
    try:
        run.submit()
        run.until(lambda: run.step() > 0, "first step")
        for _ in range(num_faults):
            line = strike(run, draw, deck)
            yield line
            if "failed" in line:
                return
        run.train(5)
        yield {"finished": True} | end(run) | {"seconds": round(time.monotonic() - began)}
    except Exception as error:  # whatever it is, the campaign goes on
        yield {"failed": f"{type(error).__name__}: {error}"}


def is_restored(cluster: Cluster) -> bool:
    try:
        cluster.restore()
    except AssertionError as error:  # the next run has a new one
        print(error, flush=True)
        return False
    return True


def strike(run: Watched, draw: random.Random, deck: list[str]) -> Line:
    """One fault, until the run trains again; or what it failed of."""
    kind, nodes, wanted = drawn(run, draw, deck)
    fault = FAULTS[kind]
    line: Line = {"fault": kind, "nodes": [node.name for node in nodes]}
    try:
        line["moment"] = reach(run, wanted, draw)
        step, starts, said, processes = run.step(), len(run.starts()), len(run.output()), run.processes()
        line |= {"step": step, "ranks": len(run.nodes())}
        began = time.monotonic()
        fault.hit(run, nodes)
        if fault.restarts:
            run.until(lambda: is_noticed(run, said), f"word of: {kind}", every=0.2)
            line["noticed"] = round(time.monotonic() - began, 1)
            if fault.start_again:
                fault.start_again(run)
                line["queued_again"] = round(time.monotonic() - began, 1)
            run.until(lambda: len(run.starts()) > starts, f"start after: {kind}")
            step = run.starts()[-1]["step"]
            line["lost_steps"] = run.starts()[-1]["lost_steps"]
        run.until(lambda: run.step() > step, f"step after: {kind}")
        line["trains_again"] = round(time.monotonic() - began, 1)
        run.repair_all()
        line["starts"] = len(run.starts()) - starts
        if fault.restarts:
            run.until(
                lambda: not processes & run.processes(), f"end of what ran before: {kind}", patience=90, every=0.3
            )
            line["left_over"] = 0
    except Exception as error:
        line["failed"] = f"{type(error).__name__}: {error}"
    return line


def is_noticed(run: Watched, said: int) -> bool:
    """By the run itself, in what it has said since; or by SLURM, which takes the job back into the queue."""
    return NOTICED.search(run.output(), said) is not None or run.cluster.state(run.job) != "RUNNING"


def end(run: Watched) -> Line:
    """Cancels the run and puts what it leaves beside its recipe."""
    run.cluster.cancel(run.job)
    run.cluster.wait(run.job, "CANCELLED", timeout=200)
    run.until(lambda: not run.processes(), "end of all processes", patience=90, every=0.3)
    shutil.copytree(run.folder, run.recipe.parent / "run")
    checkpoints = run.folder / "checkpoints"
    name = (checkpoints / "latest").read_text().strip()
    last = json.loads((checkpoints / name / "index.json").read_text())["run"]["progress"]["step"]
    legs = layouts([(entry["step"], entry["ranks"]) for entry in run.starts()], last)
    return {"steps": last, "legs": legs, "jobs": len(run.jobs)}


def compare(line: Line, folder: Path) -> Line:
    """With a run of the same layouts, and without dropout with an undisturbed one."""
    recipe, run = load_recipe(folder / "tiny.yaml"), folder / "run"
    try:
        for ranks, until in line["legs"]:
            pool(ranks).run(train_until, recipe, folder / "reference", until)
        line |= {"same_bits": same_bits(run, folder / "reference")}
        line |= {"same_losses": losses(run) == losses(folder / "reference")}
        if not line["dropout"]:
            undisturbed = folder / "reference"
            if line["legs"] != [(NUM_NODES, line["steps"])]:
                undisturbed = folder / "undisturbed"
                pool(NUM_NODES).run(train_until, recipe, undisturbed, line["steps"])
            pairs = zip(losses(run), losses(undisturbed), strict=True)
            line |= {"difference": max(abs(ours - theirs) / theirs for ours, theirs in pairs)}
    except Exception as error:
        line |= {"failed": f"{type(error).__name__}: {error}"}
    return line


def layouts(starts: Sequence[tuple[int, int]], last: int) -> list[tuple[int, int]]:
    """Of starts, as (step, ranks), the legs that count, as (ranks, last step): a later start drops what it takes again.

    >>> layouts([(0, 4), (10, 4), (20, 3), (20, 2), (40, 4)], 55)
    [(4, 20), (2, 40), (4, 55)]
    """
    kept: list[tuple[int, int]] = []
    for step, ranks in starts:
        kept = [leg for leg in kept if leg[0] < step] + [(step, ranks)]
    ends = [step for step, _ in kept[1:]] + [last]
    legs = [(ranks, until) for (step, ranks), until in zip(kept, ends, strict=True) if until > step]
    return [leg for leg, after in zip(legs, [*legs[1:], (0, 0)], strict=True) if leg[0] != after[0]]


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system in a file, for the runs: it may hang, fill up and become read-only."""
    image = folder.with_suffix(".image")
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def small_cluster(scratch: Path, disk: Path) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir=scratch))
    cluster = Cluster(folder, NUM_NODES, shared=[scratch, disk, HOME, Path(sys.prefix)])
    assert cluster.isolated, cluster.why_not_isolated
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def table(lines: Sequence[Line]) -> str:
    """Medians and worst of each kind of fault."""
    rows = [
        "| fault | number | noticed after s | trains again after s | steps lost | processes left |",
        "|---" * 6 + "|",
    ]

    def figures(values: Sequence[float]) -> str:
        return f"{median(values):g} ({max(values):g})" if values else ""

    for kind in FAULTS:
        hits = [line for line in lines if line.get("fault") == kind]
        columns = [[line[key] for line in hits if key in line] for key in ("noticed", "trains_again", "lost_steps")]
        left = sum(line.get("left_over", 0) for line in hits)
        rows.append(f"| {kind} | {len(hits)} | {' | '.join(map(figures, columns))} | {left} |")
    runs = [line for line in lines if line.get("finished")]
    equal = sum(line.get("same_bits", False) and line.get("same_losses", False) for line in runs)
    failures = sum("failed" in line for line in lines)
    rows.append(f"\n{sum('fault' in line for line in lines)} faults in {len(runs)} runs, {equal} equal bit for bit")
    differences = [line["difference"] for line in runs if "difference" in line]
    rows.append(f"{failures} runs failed; losses without dropout differ by {max(differences, default=0):.1g} at most")
    return "\n".join(rows)


def run_campaign(num_faults: int, seed: int, first: Sequence[str], output: Path) -> Iterator[Line]:
    kept = output.with_suffix("") if output != Path(os.devnull) else Path(tempfile.gettempdir(), f"campaign-{seed}")
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        for line in campaign(Path(name), num_faults, seed, first, kept):
            with output.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--first", nargs="*", default=[], choices=FAULTS, metavar="KIND", help="kinds before all others"
    )
    parser.add_argument("--output", type=Path, default=Path(os.devnull))
    parser.add_argument("--table", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    lines = [json.loads(text) for file in options.table for text in file.read_text().splitlines()]
    if not lines:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the cluster, too
        os.environ.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
        lines = list(run_campaign(options.faults, options.seed, options.first, options.output))
    print(table(lines))


if __name__ == "__main__":
    main()
