"""How the nodes of a job find each other and count their ranks, with a stand-in for torchrun, so that a job takes a
second: it writes down how it was called."""

import json
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.home import HOME
from tests.support.machines import FABRIC

TORCHRUN = """
import json, os, sys, time
from pathlib import Path
import pretrain

def main(arguments):
    said = {"arguments": arguments, "python": sys.executable, "pretrain": pretrain.__file__}
    said |= {name: os.environ.get(name) for name in NAMES}
    folder = Path(os.environ["SAID"])
    (folder / os.environ["SLURMD_NODENAME"]).write_text(json.dumps(said))
    while len(list(folder.glob("node?"))) < int(os.environ["SLURM_STEP_NUM_NODES"]):
        time.sleep(0.05)
NAMES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "DS_ACCELERATOR")
"""
START = """
import os, sys
from pretrain.launch.environment import set_environment
from pretrain.launch.staging import staging_folder
from pretrain.launch.start import expected_ranks, start_ranks
from pretrain.__main__ import is_first
from model.errors import UserError

set_environment()
try:
    print("expected ranks:", expected_ranks(None), flush=True)
    sys.exit(start_ranks(["nothing"], None, stage_in=staging_folder(os.environ.get("STAGE_IN", ""))))
except UserError as error:
    if is_first():
        print(error)
    sys.exit(2)
"""


class Jobs:
    """Submits jobs of two nodes and reads what torchrun's stand-in was told on each."""

    def __init__(self, cluster: Cluster, folder: Path):
        self.cluster = cluster
        self.folder = folder
        (folder / "torch" / "distributed").mkdir(parents=True)
        (folder / "torch" / "distributed" / "run.py").write_text(TORCHRUN)
        for package in ("torch", "torch/distributed"):
            (folder / package / "__init__.py").touch()
        (folder / "start.py").write_text(START)
        self.script = folder / "start.sh"
        self.script.write_text(f"#!/bin/sh\nexec {sys.executable} {folder}/start.py\n")
        self.script.chmod(0o755)
        self.environment = {"PYTHONPATH": f"{HOME}:{folder}", "SAID": str(folder)}

    def submit(self, *, environment: dict[str, str] | None = None, state: str = "COMPLETED", **options: str) -> str:
        """A batch job until its end; its output."""
        options = {"nodes": "2", "nodelist": "node[1-2]", **options}
        job = self.cluster.submit(str(self.script), environment={**self.environment, **(environment or {})}, **options)
        self.cluster.wait(job, state, timeout=60)
        return self.cluster.output(job)

    def run(self, *command: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """A command on the login node."""
        return self.cluster.attempt(*command, environment=self.environment, input=input)

    def said(self, node: str) -> dict[str, Any]:
        return json.loads((self.folder / node).read_text())

    def option(self, node: str, name: str) -> str:
        arguments = self.said(node)["arguments"]
        joined = [word.partition("=")[2] for word in arguments if word.startswith(f"{name}=")]
        return joined[0] if joined else arguments[arguments.index(name) + 1]

    def num_ranks(self) -> dict[str, int]:
        nodes = [name for name in ("node1", "node2", "node3") if (self.folder / name).exists()]
        return {node: int(self.option(node, "--nproc-per-node")) for node in nodes}


@pytest.fixture
def jobs(cluster: Cluster, tmp_path: Path) -> Jobs:
    return Jobs(cluster, tmp_path)


def test_nodes_meet_at_the_interface_of_their_slurm_address(breakable, jobs):
    """Whether their own name resolves to 127.0.1.1, as on node1, or not at all."""
    assert "expected ranks: 4" in jobs.submit()
    for node in ("node1", "node2"):
        said = jobs.said(node)
        assert (said["GLOO_SOCKET_IFNAME"], said["NCCL_SOCKET_IFNAME"]) == (FABRIC, f"={FABRIC}")
        assert jobs.option(node, "--rdzv-endpoint").startswith(breakable.nodes[0].address + ":")
        assert jobs.option(node, "--nnodes") == "2"
    assert jobs.option("node1", "--rdzv-endpoint") == jobs.option("node2", "--rdzv-endpoint")


def test_an_interface_that_the_user_names_stays(jobs):
    jobs.submit(environment={"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "eth0"})
    said = jobs.said("node2")
    assert (said["GLOO_SOCKET_IFNAME"], said["NCCL_SOCKET_IFNAME"]) == ("eth0", "eth0")


def test_a_port_that_is_taken_is_passed_over(breakable, jobs):
    server = "import socket, time; s = socket.create_server(('', 25000)); print(flush=True); time.sleep(60)"
    command = breakable.nodes[0].command(sys.executable, "-c", server)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as listener:
        listener.stdout.readline()
        jobs.submit(environment={"MASTER_PORT": "25000"})
        listener.kill()
    assert [jobs.option(node, "--rdzv-endpoint").rpartition(":")[2] for node in ("node1", "node2")] == ["25002"] * 2


def test_every_node_counts_its_own_gpus(jobs):
    assert "expected ranks: 3" in jobs.submit(gpus="3")
    assert jobs.num_ranks() == {"node1": 2, "node2": 1}
    assert jobs.said("node1")["DS_ACCELERATOR"] is None


@pytest.mark.parametrize(
    ("options", "ranks"),
    [
        ({"ntasks": "3", "gpus_per_task": "1"}, {"node1": 2, "node2": 1}),
        ({"gpus": "2", "ntasks_per_gpu": "1"}, {"node1": 1, "node2": 1}),
    ],
    ids=["gpus-per-task", "ntasks-per-gpu"],
)
def test_gpus_asked_for_each_task_are_counted_for_each_node(jobs, options, ranks):
    assert f"expected ranks: {sum(ranks.values())}" in jobs.submit(**options)
    assert jobs.num_ranks() == ranks


def test_an_allocation_from_a_machine_without_gpus_counts_on_the_nodes(jobs):
    ended = jobs.run("salloc", "--nodelist=node[1-2]", "--gpus=3", str(jobs.script))
    assert ended.returncode == 0 and "expected ranks: 3" in ended.stdout, ended
    assert jobs.num_ranks() == {"node1": 2, "node2": 1}
    assert jobs.said("node2")["DS_ACCELERATOR"] is None


def test_the_shell_that_salloc_opens_starts_all_nodes(jobs):
    jobs.environment["SHELL"] = "/bin/sh"  # which salloc opens; a login sets it
    ended = jobs.run(
        "script", "--quiet", "--command", "salloc --nodelist=node[1-2]", "/dev/null", input=f"exec {jobs.script}\n"
    )
    assert jobs.num_ranks() == {"node1": 2, "node2": 2}, ended


def test_an_environment_is_copied_to_the_nodes_own_disks(breakable, jobs):
    """But not on a node whose disk is full, whose ranks use the shared one."""
    environment = jobs.folder / "environment"
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib"))
    jobs.script.write_text(f"#!/bin/sh\nexec {environment}/bin/python {jobs.folder}/start.py\n")
    breakable.run("mount", "-t", "tmpfs", "-o", "size=64k,mode=1777", "tmpfs", "/mnt", on=breakable.nodes[1])

    output = jobs.submit(environment={"STAGE_IN": "/tmp"})
    assert re.search(r"environment: 0\.\d+ GiB on the disks of 2 of 2 nodes in", output), output
    for node in ("node1", "node2"):
        said = jobs.said(node)
        assert re.fullmatch(r"/tmp/espalier-\d+-\d+-0/environment/bin/python3?", said["python"])
        assert re.fullmatch(r"/tmp/espalier-\d+-\d+-0/home/pretrain/__init__.py", said["pretrain"])
    left = [breakable.run("ls", "/tmp", on=node) for node in breakable.nodes[:2]]
    assert not re.search(r"espalier-\d+-\d+-", "".join(left))

    for node in ("node1", "node2"):
        (jobs.folder / node).unlink()  # the stand-in waits for both
    output = jobs.submit(environment={"STAGE_IN": "/mnt"})
    assert "on the disks of 1 of 2 nodes" in output and "from the shared disk on node2" in output, output
    assert jobs.said("node1")["python"].startswith("/mnt/espalier-")
    assert jobs.said("node2")["python"].startswith(str(environment))


def test_tasks_of_srun_are_parts_of_one_run(jobs):
    ended = jobs.run("srun", "--nodelist=node[1-2]", "--ntasks-per-node=1", "--gpus=3", str(jobs.script))
    assert ended.returncode == 0, ended
    assert jobs.num_ranks() == {"node1": 2, "node2": 1}
    assert jobs.option("node1", "--rdzv-endpoint") == jobs.option("node2", "--rdzv-endpoint")
    assert jobs.option("node2", "--nnodes") == "2"


def test_several_tasks_of_srun_on_a_node_are_refused_in_one_line(jobs):
    ended = jobs.run("srun", "--nodelist=node1", "--ntasks=2", str(jobs.script))
    refusal = (
        "srun started 2 tasks on 1 node; start one on each, which starts the node's ranks: srun --ntasks-per-node=1"
    )
    assert ended.returncode == 2
    assert ended.stdout.splitlines() == [refusal]
    assert jobs.num_ranks() == {}


@pytest.mark.parametrize("copied", [False, True], ids=["the script itself", "a copy of it"])
def test_a_job_may_be_submitted_from_a_subfolder_and_run_elsewhere(cluster, tmp_path, copied):
    script = tmp_path / "job.sh" if copied else HOME / "launch.sh"
    if copied:
        script.write_text((HOME / "launch.sh").read_text())
    job = cluster.submit(
        str(script), "doctor", "--quiet",
        folder=HOME / "tests" / "support", chdir=str(tmp_path), environment={"ESPALIER_PYTHON": sys.executable},
    )  # fmt: skip
    cluster.wait(job, "COMPLETED", timeout=60)


def test_a_job_from_elsewhere_says_where_it_belongs(cluster, tmp_path):
    (tmp_path / "job.sh").write_text((HOME / "launch.sh").read_text())
    job = cluster.submit(str(tmp_path / "job.sh"), "doctor", "--quiet", folder=tmp_path)
    cluster.wait(job, "FAILED", timeout=60)
    assert f"{tmp_path} is not in Espalier's folder; submit the job from there" in cluster.output(job)
