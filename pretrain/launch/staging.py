"""The environment on every node's own disk, once for a job: `--stage-environment FOLDER`.

An environment is ten thousand small files, and importing them from a shared disk is what a start on many nodes waits
for. Here the first node reads them once, into one archive; SLURM's `sbcast` hands that from node to node; each unpacks
it. A node where this fails, or that comes later, imports from the shared disk as before.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import UserError
from pretrain.launch.environment import HOME
from pretrain.launch.slurm import Job, say
from pretrain.launch.step import step_environment

NODES_SECONDS = 600.0
"""How long nodes may take to unpack."""

PARTS_OF_HOME = ("model", "growth", "pretrain", "ds_configs")

IS_OURS = '[ -O "$1" ] && [ ! -L "$1" ]'  # in /tmp anybody may have made a folder of that name first
MAKE_FOLDER = f'{IS_OURS} || mkdir -m 700 "$1"'
UNPACK = f'{IS_OURS} && cd "$1" && tar -xf archive && rm archive && touch whole || {{ rm -rf "$1"; false; }}'
REMOVE = 'rm -rf "$1"'

START = f"""
if {IS_OURS} && [ -e "$1/whole" ]; then export PYTHONPATH="$2:$PYTHONPATH"; python=$3; else python=$4; fi
shift 4
exec "$python" "$@"
"""


@dataclass(frozen=True)
class Staged:
    """What lies on the nodes' own disks. Remove it when the job is over."""

    folder: Path
    """Nobody else may enter it. Holds the file `whole` once all is there."""
    python: Path
    home: Path

    def command(self, words: Sequence[str]) -> list[str]:
        """`python WORDS`, where the node has it in its own copy."""
        return ["sh", "-c", START, "sh", str(self.folder), str(self.home), str(self.python), sys.executable, *words]

    def remove(self, nodes: Sequence[str]) -> None:
        _on(nodes, REMOVE, self.folder)


def staging_folder(option: str) -> Path | None:
    """What `--stage-environment` names. Raises UserError where nothing can be copied."""
    if not option:
        return None
    if Job.from_environment() is None:
        raise UserError("--stage-environment is for SLURM jobs (sbatch, salloc), and this is none; leave it out")
    if not Path(option).is_absolute():
        raise UserError(
            f"--stage-environment {option} is not an absolute path; give one on each node's own disk, such as /tmp"
        )
    if sys.prefix == sys.base_prefix and not Path(sys.prefix, "conda-meta").is_dir():
        raise UserError(f"--stage-environment copies a virtual or conda environment, and {sys.executable} is in none")
    return Path(option)


def stage(job: Job, nodes: Sequence[str], parent: Path) -> Staged:
    """Copies the environment and the project into a new folder in `parent` on each node, and says how long it took.

    Takes what it can get: the ranks of a node without a copy use the shared one.
    """
    prefix, began = Path(sys.prefix), time.monotonic()
    folder = parent / f"espalier-{os.getuid()}-{job.id}-{job.restarts}"
    python = folder / "environment" / Path(sys.executable).relative_to(prefix)
    inside = HOME.is_relative_to(prefix)  # of an installed wheel
    home = folder / "environment" / HOME.relative_to(prefix) if inside else folder / "home"
    num_bytes = 0
    _on(nodes, MAKE_FOLDER, folder)
    try:
        with tempfile.TemporaryDirectory(prefix="espalier-", dir=parent if parent.is_dir() else None) as here:
            archive = Path(here, "archive")
            num_bytes = _pack(archive, prefix, None if inside else HOME)
            copied = subprocess.run(["sbcast", "--force", archive, folder / "archive"], capture_output=True, text=True)
        if copied.returncode:
            say(f"sbcast could not copy the environment to the nodes: {_last_line(copied.stderr)}")
    except OSError as fault:
        say(f"the environment could not be packed: {fault}")
    without = _on(nodes, UNPACK, folder)
    seconds = time.monotonic() - began
    say(
        f"environment: {num_bytes / 2**30:.2f} GiB on the disks of {len(nodes) - len(without)} of {len(nodes)} nodes "
        f"in {seconds:.1f} s" + (f"; from the shared disk on {' '.join(without)}" if without else "")
    )
    return Staged(folder, python, home)


def _pack(file: Path, prefix: Path, home: Path | None) -> int:
    """One archive of the environment and, where it lies elsewhere, the project. Its size in bytes."""
    with tarfile.open(file, "w") as archive:
        archive.add(prefix, "environment")
        if home:
            for part in PARTS_OF_HOME:
                archive.add(home / part, f"home/{part}")
    return file.stat().st_size


def _on(nodes: Sequence[str], script: str, folder: Path) -> list[str]:
    """Runs a line of shell on each node. Returns those where it failed."""
    if not nodes:
        return []
    one_task_each = [f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1", "--overlap"]
    tell = f'if {{ {script}; }} 2>&1; then echo "whole $SLURMD_NODENAME"; fi'
    command = ["srun", f"--nodelist={','.join(nodes)}", *one_task_each, "sh", "-c", tell, "sh", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=step_environment(), timeout=NODES_SECONDS)
    except subprocess.TimeoutExpired:
        return list(nodes)
    whole = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("whole ")}
    return [node for node in nodes if node not in whole]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
