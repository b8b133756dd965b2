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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from tests.support.cluster import Cluster
from tests.support.home import HOME
from tests.support.tiny import losses, same_bits, tiny_corpus, tiny_recipe, train_until, write_recipe
from tests.support.workers import pool
from tests.whole.slurm.faults import FAULTS, drawn, reach
from tests.whole.slurm.watched import Watched

NUM_NODES = 4
NUM_FAULTS = 8
"""In a run."""
BOUNDARIES = (50, 100)
CHANGES = dict(
    stages=[
        {"name": "tied", "steps": 50},
        {"name": "untied", "steps": 50, "grow": "unshare"},
        {"name": "deep", "steps": 20_000, "grow": "stack", "shape": {"layers": 4}},
    ],
    batch={"global": 12, "micro": 2},
    checkpoint={"every": 10, "keep_last": 3},
    validation={"rows": 12, "every": 20},
    faults={"min_nodes": 1, "detect_seconds": 5, "restarts": 20},
)
MODEL = dict(layers=2, hidden=32, heads=4, ffn=64, sharing=1, max_positions=32)
IN_MEMORY = {"checkpoint": {"every": 10, "keep_last": 3, "memory_every": 4}}
WITHOUT_DROPOUT = {"model": MODEL | {"hidden_dropout": 0.0, "attention_dropout": 0.0}}

NOTICED = re.compile(r"is lost:|continues on|goes back into the queue|SIG\w+ received|No space|Read-only|submit it")
"""In the output of a job: somebody has noticed."""

Line = dict[str, Any]


def campaign(
    cluster: Cluster, disk: Path, scratch: Path, num_faults: int, seed: int, first: Sequence[str]
) -> Iterator[Line]:
    draw, deck = random.Random(seed), list(first)
    corpus = tiny_corpus(scratch).directory
    for number in range(-(-num_faults // NUM_FAULTS)):
        has_dropout = bool((seed + number) % 2)
        changes = CHANGES | (IN_MEMORY if has_dropout else WITHOUT_DROPOUT)
        folder = scratch / f"run-{number}"
        folder.mkdir()
        recipe = write_recipe(folder / "tiny.yaml", corpus, **changes)
        run = Watched(cluster, recipe, disk / f"run-{number}", disk, BOUNDARIES)
        common = {"seed": seed, "run": number, "dropout": has_dropout}
        try:
            run.submit()
            run.until(lambda run=run: run.step() > 0, "first step")
            for _ in range(min(NUM_FAULTS, num_faults - number * NUM_FAULTS)):
                yield common | strike(run, draw, deck)
            run.train(5)
            yield common | {"finished": True} | end(run, changes, corpus, folder)
        except AssertionError as error:
            yield common | {"failed": str(error)}
        finally:
            cluster.restore()


def strike(run: Watched, draw: random.Random, deck: list[str]) -> Line:
    """One fault, until the run trains again."""
    kind, nodes, wanted = drawn(run, draw, deck)
    fault = FAULTS[kind]
    moment = reach(run, wanted, draw)
    step, starts, said, processes = run.step(), len(run.starts()), len(run.output()), run.processes()
    line: Line = {"fault": kind, "moment": moment, "nodes": [node.name for node in nodes], "step": step}
    line["ranks"] = len(run.nodes())
    began = time.monotonic()
    try:
        fault.hit(run, nodes)
        if fault.restarts:
            run.until(lambda: is_noticed(run, said), f"word of: {kind}")
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
            run.until(lambda: not processes & run.processes(), f"end of what ran before: {kind}", patience=90)
            line["left_over"] = 0
    except AssertionError as error:
        raise AssertionError(f"{json.dumps(line)}\n{error}") from error
    return line


def is_noticed(run: Watched, said: int) -> bool:
    """By the run itself, in what it has said since; or by SLURM, which takes the job back into the queue."""
    return NOTICED.search(run.output(), said) is not None or run.cluster.state(run.job) != "RUNNING"


def end(run: Watched, changes: dict[str, Any], corpus: Path, scratch: Path) -> Line:
    """Cancels the run and compares it with one of the same layouts, and without dropout with an undisturbed one."""
    run.cluster.cancel(run.job)
    run.cluster.wait(run.job, "CANCELLED", timeout=200)
    run.until(lambda: not run.processes(), "end of all processes", patience=90)
    checkpoints = run.folder / "checkpoints"
    name = (checkpoints / "latest").read_text().strip()
    last = json.loads((checkpoints / name / "index.json").read_text())["run"]["progress"]["step"]
    recipe = tiny_recipe(corpus, **changes)
    legs = layouts([(entry["step"], entry["ranks"]) for entry in run.starts()], last)
    for ranks, until in legs:
        pool(ranks).run(train_until, recipe, scratch / "reference", until)
    line = {"steps": last, "legs": legs, "jobs": len(run.jobs)}
    line["same_bits"] = same_bits(run.folder, scratch / "reference")
    line["same_losses"] = losses(run.folder) == losses(scratch / "reference")
    if "model" in changes:
        pool(NUM_NODES).run(train_until, recipe, scratch / "undisturbed", last)
        pairs = zip(losses(run.folder), losses(scratch / "undisturbed"), strict=True)
        line["difference"] = max(abs(ours - theirs) / theirs for ours, theirs in pairs)
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
    equal = sum(line["same_bits"] and line["same_losses"] for line in runs)
    failures = sum("failed" in line for line in lines)
    rows.append(f"\n{sum('fault' in line for line in lines)} faults in {len(runs)} runs, {equal} equal bit for bit")
    differences = [line["difference"] for line in runs if "difference" in line]
    rows.append(f"{failures} runs failed; losses without dropout differ by {max(differences, default=0):.1g} at most")
    return "\n".join(rows)


def run_campaign(num_faults: int, seed: int, first: Sequence[str], output: Path) -> Iterator[Line]:
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        scratch = Path(name)
        with small_disk(scratch / "disk") as disk:
            (scratch / "slurm").mkdir()
            cluster = Cluster(scratch / "slurm", NUM_NODES, shared=[scratch, disk, HOME, Path(sys.prefix)])
            assert cluster.isolated, cluster.why_not_isolated
            try:
                cluster.start()
                for line in campaign(cluster, disk, scratch, num_faults, seed, first):
                    with output.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    print(json.dumps(line), flush=True)
                    yield line
            finally:
                cluster.stop()


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
        os.environ.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
        lines = list(run_campaign(options.faults, options.seed, options.first, options.output))
    print(table(lines))


if __name__ == "__main__":
    main()
