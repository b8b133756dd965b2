"""A real SLURM on this machine: munged, slurmctld and a slurmd for each of several nodes, all on the loopback device.

Needs root and Debian's packages slurmctld, slurmd, slurm-client and munge; touches nothing of the machine's own
configuration. The names of its nodes do not resolve, as on some real clusters: only their NodeAddr leads anywhere.
"""

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol")

CONFIGURATION = """
ClusterName=little
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SrunPortRange={srun_ports}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
SlurmdTimeout=300
KillWait=30
MinJobAge=600
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
# Several slurmds on one machine report other sockets and cores than each declares.
SlurmdParameters=config_overrides
"""


class Cluster:
    def __init__(self, folder: Path, num_nodes: int = 2):
        self.folder = folder
        self.nodes = [f"node{index + 1}" for index in range(num_nodes)]
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"):
            self.environment.pop(name, None)

    @staticmethod
    def missing() -> str:
        """Why there can be no cluster here; empty when there can."""
        absent = [name for name in DAEMONS if shutil.which(name) is None]
        if absent:
            return f"no SLURM here ({', '.join(absent)} missing); apt-get install slurmctld slurmd slurm-client munge"
        return "" if os.geteuid() == 0 else "SLURM's daemons need root here"

    def start(self) -> None:
        ports = _free_ports(1 + len(self.nodes) + 40)
        keys = self.folder / "munge"
        keys.mkdir(mode=0o700)
        (self.folder / "state").mkdir()
        (keys / "key").write_bytes(os.urandom(128))
        (keys / "key").chmod(0o400)
        text = CONFIGURATION.format(
            folder=self.folder, controller_port=ports[0], srun_ports=f"{min(ports[-40:])}-{max(ports[-40:])}"
        )
        # Every node claims all cores: the jobs of the tests run one after the other.
        cores = os.cpu_count()
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20 * 9 // 10
        for node, port in zip(self.nodes, ports[1:], strict=False):
            (self.folder / f"spool.{node}").mkdir()
            text += f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} "
            text += f"CPUs={cores} RealMemory={memory} State=UNKNOWN\n"
        text += f"PartitionName=main Nodes={','.join(self.nodes)} Default=YES MaxTime=INFINITE State=UP\n"
        (self.folder / "slurm.conf").write_text(text)
        self._run(
            "munged", "--force", f"--key-file={keys}/key", f"--socket={self.folder}/munge.socket",
            f"--pid-file={self.folder}/munged.pid", f"--log-file={keys}/log", f"--seed-file={keys}/seed",
        )  # fmt: skip
        self._run("slurmctld", "-c", "-f", str(self.folder / "slurm.conf"))
        for node in self.nodes:
            self._run("slurmd", "-f", str(self.folder / "slurm.conf"), "-N", node)
        self._await(lambda: self._run("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(len(self.nodes)), 60)

    def stop(self) -> None:
        """Ends exactly the daemons that were started here, slurmds first."""
        names = [*(f"slurmd.{node}.pid" for node in self.nodes), "slurmctld.pid", "munged.pid"]
        for file in map(self.folder.joinpath, names):
            if file.exists() and file.read_text().strip():
                pid = int(file.read_text())
                _signal(pid, 15)
                self._await(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 20)

    # ---- jobs ----

    def submit(self, *command: str, environment: dict[str, str] | None = None, **options: str) -> str:
        """`sbatch` with its options; gives the job's number. Output of the job: `output(job)`."""
        flags = [f"--{name.replace('_', '-')}={value}" if value else f"--{name}" for name, value in options.items()]
        flags += [f"--output={self.folder}/job-%j.txt", "--parsable"]
        return self._run("sbatch", *flags, *command, environment=environment).strip()

    def output(self, job: str) -> str:
        file = self.folder / f"job-{job}.txt"
        return file.read_text("utf-8", "replace") if file.exists() else ""

    def wait_for(self, job: str, text: str, timeout: float = 240) -> None:
        self._await(lambda: text in self.output(job), timeout, lambda: f"no {text!r} in\n{self.output(job)}")

    def wait(self, job: str, *states: str, timeout: float = 240) -> None:
        """Until the job is in one of these states, such as COMPLETED."""
        self._await(
            lambda: self.state(job) in states, timeout, lambda: f"job is {self.state(job)}:\n{self.output(job)}"
        )

    def state(self, job: str) -> str:
        return self._field(job, "JobState")

    def restarts(self, job: str) -> int:
        return int(self._field(job, "Restarts"))

    def exit_code(self, job: str) -> int:
        return int(self._field(job, "ExitCode").split(":")[0])

    def signal(self, job: str, name: str) -> None:
        """To all processes of the job's steps, as `--signal=NAME@SECONDS` sends it."""
        self._run("scancel", f"--signal={name}", job)

    def cancel(self, job: str) -> None:
        self._run("scancel", job)

    def start_now(self, job: str) -> None:
        """SLURM holds a requeued job back for two minutes; this lets it go at once."""
        self._await(lambda: self.state(job) == "PENDING", 60, lambda: f"job is {self.state(job)}")
        time.sleep(3)  # a node refuses a job that it killed in the same second
        self._run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def _field(self, job: str, name: str) -> str:
        words = self._run("scontrol", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def _run(self, *command: str, environment: dict[str, str] | None = None) -> str:
        environment = {**self.environment, **(environment or {})}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    @staticmethod
    def _await(condition, timeout: float, describe=lambda: "SLURM does not answer") -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, describe()
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """A range of ports that nothing listens on now."""
    for first in range(21000, 60000, 500):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, held in enumerate(sockets):
                held.bind(("127.0.0.1", first + offset))
            return list(range(first, first + count))
        except OSError:
            continue
        finally:
            for held in sockets:
                held.close()
    raise AssertionError("no free ports")


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
