"""Where ranks start, and how many."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from model.errors import UserError
from pretrain.__main__ import main
from pretrain.launch import slurm, start
from pretrain.launch.outcome import ExitCode
from pretrain.launch.slurm import Job, Task
from tests.support.launching import HOME

JOB = {"SLURM_JOB_ID": "71234", "SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_NODELIST": "gpu[1-4]"}


@pytest.fixture
def in_job(monkeypatch):
    """A function that makes this process one of a SLURM job. `details`: what scontrol says of its nodes."""
    for name in [
        name
        for name in os.environ
        if name.startswith(("SLURM_", "SLURMD_")) or name in ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR")
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")

    def enter(details: str = "", **more: str) -> None:
        for name, value in {**JOB, **more}.items():
            monkeypatch.setenv(name, value)
        names = {"gpu[1-4]": "gpu1 gpu2 gpu3 gpu4", "gpu[2-4]": "gpu2 gpu3 gpu4"}
        monkeypatch.setattr(
            slurm, "ask", lambda *words: names.get(words[-1], words[-1]) if "hostnames" in words else details
        )

    return enter


def test_the_launcher_imports_no_torch():
    code = "import sys, pretrain.__main__, pretrain.cli.train, pretrain.launch.node; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_container_without_slurms_commands_reads_the_list_of_nodes_itself(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda program: None)
    assert slurm.hostnames("gpu[08-10,12],login") == ["gpu08", "gpu09", "gpu10", "gpu12", "login"]
    assert slurm.hostnames("r[1-2]n[3-4]") == ["r1n3", "r1n4", "r2n3", "r2n4"]
    assert slurm.node_address("gpu08") == "gpu08"
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_NODEID": "1"}
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "gpu[1-2]", **step}.items():
        monkeypatch.setenv(name, value)
    task = Task.from_environment()
    assert task is not None and task.name == "gpu2" and task.nodes == ("gpu1", "gpu2")


def test_a_look_at_the_nodes_never_puts_its_job_back_into_the_queue(in_job, monkeypatch):
    in_job()
    monkeypatch.setattr(start, "run_job", lambda *_: ExitCode.PEER_LOST)
    monkeypatch.setattr(start, "requeue", lambda *_: pytest.fail("requeued"))
    assert start.start_once(["pretrain", "check-nodes"], 2) == ExitCode.PEER_LOST


@pytest.mark.parametrize(("visible", "ranks"), [("", 2), ("3", 1), ("0,2,5", 3)])
def test_one_rank_for_each_gpu_or_two(monkeypatch, visible, ranks):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert start.expected_ranks(None) == ranks
    assert start.expected_ranks(5) == 5


def test_gpus_that_lie_unevenly_are_summed_over_the_nodes(in_job):
    in_job(
        details="   JOB_GRES=gpu:a100:11\n"
        "     Nodes=gpu1 CPU_IDs=0-1 Mem=0 GRES=gpu:a100:2(IDX:0-1)\n"
        "     Nodes=gpu[2-4] CPU_IDs=0 Mem=0 GRES=gpu:a100:3(IDX:0-2),shard:0\n"
    )
    assert start.expected_ranks(None) == 11
    assert start.expected_ranks(2) == 8


def test_where_slurm_counts_no_gpus_this_node_stands_for_all(in_job, monkeypatch):
    in_job(SLURMD_NODENAME="gpu1", CUDA_VISIBLE_DEVICES="0,1,2")
    assert start.expected_ranks(None) == 12
    monkeypatch.delenv("SLURMD_NODENAME")  # a login node stands for none
    assert start.expected_ranks(None) == 8


@pytest.mark.parametrize("step", [None, "4294967290", "4294967291"], ids=["none", "salloc's shell", "batch script"])
def test_a_job_and_how_often_it_started(in_job, step):
    in_job(SLURM_RESTART_COUNT="2", **({"SLURM_STEP_ID": step} if step else {}))
    assert Job.from_environment() == Job(71234, 4, "gpu[1-4]", 2)
    assert Task.from_environment() is None


def test_a_task_of_srun_is_its_nodes_part(in_job):
    in_job(
        SLURM_STEP_NODELIST="gpu[2-4]",
        SLURM_STEP_NUM_NODES="3",
        SLURM_STEP_NUM_TASKS="3",
        SLURM_STEP_ID="7",
        SLURM_NODEID="1",
    )
    assert Job.from_environment() is None
    task = Task.from_environment()
    assert task == Task("71234-0-7", 71234, ("gpu2", "gpu3", "gpu4"), 1)
    assert (task.name, task.is_head) == ("gpu3", False)
    assert start.expected_ranks(8) == 24


def test_several_tasks_on_a_node_are_refused(in_job):
    in_job(SLURM_STEP_NODELIST="gpu[1-4]", SLURM_STEP_NUM_NODES="4", SLURM_STEP_NUM_TASKS="32", SLURM_STEP_ID="0")
    with pytest.raises(UserError, match="srun started 32 tasks on 4 nodes; start one on each"):
        start.start_ranks(["nothing"], None)


def test_a_shell_that_srun_opened_with_several_tasks_trains_on_its_node(in_job, monkeypatch):
    here = []
    monkeypatch.setattr(start, "run_here", lambda module, nproc: here.append(nproc) or 0)
    in_job(
        SLURM_STEP_NODELIST="gpu1",
        SLURM_STEP_NUM_NODES="1",
        SLURM_STEP_NUM_TASKS="8",
        SLURM_STEP_ID="0",
        SLURM_PROCID="0",
        SLURM_PTY_PORT="40001",
    )
    assert start.expected_ranks(8) == 8
    assert (start.start_ranks(["nothing"], 8), here) == (0, [8])
    monkeypatch.setenv("SLURM_PROCID", "1")  # `srun --ntasks=8 --pty launch.sh train`: not eight runs
    with pytest.raises(UserError, match="srun started 8 tasks on 1 node;"):
        start.start_ranks(["nothing"], 8)


@pytest.mark.parametrize("number", [0, -2])
def test_a_number_of_ranks_below_one_is_refused(number):
    with pytest.raises(UserError, match=f"--nproc {number} is too few"):
        start.expected_ranks(number)


@pytest.mark.parametrize("value", ["eight", "x[$(touch /tmp/never)]", "8,4", "²"])
def test_what_slurm_says_must_be_a_number(in_job, value):
    in_job(SLURM_JOB_NUM_NODES=value)
    with pytest.raises(UserError, match="SLURM_JOB_NUM_NODES is .* it must be a whole number"):
        start.expected_ranks(None)


RANK = "from pretrain.launch.rank import is_rank; import os, subprocess, sys; print(is_rank()); "
CHILD = "subprocess.run([sys.executable, '-c', 'from pretrain.launch.rank import is_rank; print(is_rank())'])"


def test_only_what_torchrun_started_is_a_rank(tmp_path):
    """Not whoever finds RANK in the environment, nor a child of a rank."""
    (tmp_path / "module.py").write_text(RANK + "sys.stdout.flush(); " + CHILD)
    environment = {**os.environ, "RANK": "1", "WORLD_SIZE": "4", "PYTHONPATH": f"{HOME}:{tmp_path}"}
    for command, answers in ((["module"], ["False", "False"]), (["pretrain.launch.rank", "module"], ["True", "False"])):
        done = subprocess.run([sys.executable, "-m", *command], env=environment, capture_output=True, text=True)
        assert done.stdout.split() == answers, done.stderr


def test_a_mistake_is_told_although_the_environment_speaks_of_ranks(monkeypatch, capsys):
    """Scripts for clusters set RANK and its like, for other programs."""
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "elsewhere"}.items():
        monkeypatch.setenv(name, value)
    assert main(["trian"]) == 2
    assert "verb 'trian' is unknown" in capsys.readouterr().err
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & os.environ.keys()


@pytest.mark.parametrize(("restarts", "is_requeued"), [("0", True), ("1", False), ("3", False)])
def test_a_start_that_slurm_has_replaced_does_not_requeue_the_job(monkeypatch, capsys, restarts, is_requeued):
    """A node that was cut off must not stop the start that goes on without it."""
    monkeypatch.setattr(
        slurm, "ask", lambda *words: f"JobId=71234\n JobState=RUNNING\n Restarts={restarts} BatchFlag=1"
    )
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command: commands.append(command) or SimpleNamespace(returncode=0))
    slurm.requeue(Job(71234, 4, "gpu[1-4]", 0), "a rank was lost")
    assert bool(commands) == is_requeued
    assert ("has started again without this one" in capsys.readouterr().err) != is_requeued
