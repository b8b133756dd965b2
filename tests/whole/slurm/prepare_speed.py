"""`prepare` by jobs of the test cluster, the figures of docs/results/data.md, with 1, 2 and 4 tasks at a time.

    python -m tests.whole.slurm.prepare_speed TEXT.jsonl VOCAB.txt --mb 20

The first megabytes of the text, in eight files and so eight tasks. Nodes share the cores of this machine.
"""

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.home import HOME

NUM_NODES = 4
NUM_FILES = 8


def divided(text: Path, megabytes: float, folder: Path) -> float:
    """Writes the files; their size in MB."""
    folder.mkdir()
    size, files = 0, [(folder / f"{number}.jsonl").open("wb") for number in range(NUM_FILES)]
    with text.open("rb") as lines:
        for line in lines:
            files[int(size / 1e6 / megabytes * NUM_FILES)].write(line)
            size += len(line)
            if size >= megabytes * 1e6:
                break
    for file in files:
        file.close()
    return size / 1e6


def content(corpus: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in corpus.iterdir()}


def cpu_seconds(cluster: Cluster) -> float:
    """Of all that has run on its machines and has ended, and of this process's children."""
    ticks = 0
    for machine in (*cluster.nodes, cluster.login):
        for pid in (machine._process_1(), *machine.processes()):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # its own, and those of the children that it has waited for
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ticks / os.sysconf("SC_CLK_TCK") + children.ru_utime + children.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("vocab", type=Path)
    parser.add_argument("--mb", type=float, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prepare-") as name:
        scratch = Path(name)
        megabytes = divided(options.text, options.mb, scratch / "text")
        vocab = Path(shutil.copy(options.vocab, scratch))
        (scratch / "slurm").mkdir()
        cluster = Cluster(scratch / "slurm", NUM_NODES, shared=[scratch, HOME, Path(sys.prefix)])
        try:
            cluster.start()
            for number in (0, 1, 2, 4):
                command = [sys.executable, "-m", "pretrain", "prepare", str(scratch / "text")]
                command += ["--output", str(scratch / str(number)), "--vocab", str(vocab)]
                command += ["--num-workers", str(number or 1)]
                command += ["--executor", "slurm", "--task-mb", "1"] if number else []
                began, cpu_began = time.monotonic(), cpu_seconds(cluster)
                done = cluster.attempt(*command, environment={"PYTHONPATH": str(HOME)}, timeout=1800)
                assert done.returncode == 0, done.stderr
                seconds, cpu = time.monotonic() - began, cpu_seconds(cluster) - cpu_began
                assert content(scratch / str(number)) == content(scratch / "0")
                name = f"{number} tasks at a time" if number else "one process"
                print(f"{name:20} {megabytes / cpu:.2f} MB/s of CPU time, {seconds:.0f} s", flush=True)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
