"""Where ranks start, and how many."""

import subprocess
import sys

import pytest

from model.errors import UserError
from pretrain.launch import start
from pretrain.launch.slurm import Job

JOB = {"SLURM_JOB_ID": "71234", "SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_NODELIST": "gpu[1-4]"}


@pytest.fixture
def in_job(monkeypatch):
    """A function that makes this process one of a SLURM job."""
    for name in ("SLURM_STEP_ID", "SLURM_GPUS_ON_NODE", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")

    def enter(**more):
        for name, value in {**JOB, **more}.items():
            monkeypatch.setenv(name, value)

    return enter


def test_the_launcher_imports_no_torch():
    code = "import sys, pretrain.__main__, pretrain.cli.train, pretrain.launch.node; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize(("visible", "ranks"), [("", 2), ("3", 1), ("0,2,5", 3)])
def test_one_rank_for_each_gpu_or_two(monkeypatch, visible, ranks):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert start.ranks_per_node(None) == ranks
    assert start.ranks_per_node(5) == 5
    assert start.num_nodes() == 1


def test_what_slurm_says_counts_in_a_job(in_job, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    in_job(SLURM_GPUS_ON_NODE="8", SLURM_RESTART_COUNT="2")
    assert Job.from_environment() == Job(71234, 4, "gpu[1-4]", 8, 2)
    assert start.ranks_per_node(None) == 8
    assert start.num_nodes() == 4


def test_a_task_of_srun_is_one_process_among_others(in_job):
    in_job(SLURM_STEP_ID="0")
    assert Job.from_environment() is None


@pytest.mark.parametrize("number", [0, -2])
def test_a_number_of_ranks_below_one_is_refused(number):
    with pytest.raises(UserError, match=f"--nproc {number} is too few"):
        start.ranks_per_node(number)


@pytest.mark.parametrize("value", ["eight", "x[$(touch /tmp/never)]", "8,4", "²"])
def test_what_slurm_says_must_be_a_number(in_job, value):
    in_job(SLURM_GPUS_ON_NODE=value)
    with pytest.raises(UserError, match="SLURM_GPUS_ON_NODE is .* it must be a whole number"):
        start.ranks_per_node(None)
