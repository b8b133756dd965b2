"""A real SLURM on this machine: a login node with slurmctld and munged, and several nodes with a slurmd each.

Each node is a separate machine (machines.py) that can be switched off, cut off and slowed down. Where namespaces are
not permitted, all nodes are this one machine, on its loopback device. Their names do not resolve, as on some real
clusters: only NodeAddr leads anywhere. The first node has two GPUs, the others one; SLURM counts them, torch sees none.

Needs root and Debian's packages slurmctld, slurmd, slurm-client, munge and iproute2. Touches nothing of the machine's
own configuration.
"""

import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from tests.support import machines
from tests.support.home import HOME
from tests.support.launching import kill
from tests.support.machines import Loopback, Machine

DAEMONS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={login.hostname}({login.address})
SlurmctldPort={login.port}
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
GresTypes=gpu
LaunchParameters=use_interactive_step
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
# A late answer of a node that was declared down does not make it one in service again.
ReturnToService=1
SlurmdTimeout=300
KillWait=30
MinJobAge=600
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
# The nodes share one machine's sockets and cores; each declares others.
SlurmdParameters=config_overrides
"""


class Cluster:
    """`folder` and what `shared` names are seen by all nodes; so is every folder outside /tmp."""

    def __init__(self, folder: Path, num_nodes: int = 3, shared: Sequence[Path] = ()):
        self.folder = folder
        self.why_not_isolated = machines.why_not()
        names = [f"node{number}" for number in range(1, num_nodes + 1)]
        if self.isolated:
            shared = [folder, *shared]
            self.login = Machine("login", 1, folder, shared)
            self.nodes = [Machine(name, 10 + index, folder, shared, self.login) for index, name in enumerate(names, 1)]
            self._srun_ports = [21000, 21999]
        else:
            ports = _free_ports(1 + num_nodes + 40)
            self.login = Loopback("login", ports[0])
            self.nodes = [Loopback(name, port) for name, port in zip(names, ports[1:], strict=False)]
            self._srun_ports = ports[-40:]
        # DeepSpeed has set DS_ACCELERATOR in this process; on the nodes it would stand for a user's wish.
        ours = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self._environment = {name: value for name, value in ours.items() if name != "DS_ACCELERATOR"}
        self._environment["SLURM_CONF"] = str(folder / "slurm.conf")

    @staticmethod
    def missing() -> str:
        """Why there can be no cluster here; empty when there can."""
        absent = [name for name in DAEMONS if shutil.which(name) is None]
        if absent:
            return f"no SLURM here ({', '.join(absent)} missing); apt-get install slurmctld slurmd slurm-client munge"
        return "" if os.geteuid() == 0 else "SLURM's daemons need root here"

    @property
    def isolated(self) -> bool:
        """Whether each node is a separate machine."""
        return not self.why_not_isolated

    def start(self) -> None:
        self._write_configuration()
        if self.isolated:
            self.login.start()
        keys = self.folder / "munge"
        self.run(
            "munged", "--force", f"--key-file={keys}/key", f"--socket={self.folder}/munge.socket",
            f"--pid-file={self.folder}/munged.pid", f"--log-file={keys}/log", f"--seed-file={keys}/seed",
        )  # fmt: skip
        self.run("slurmctld", "-c")
        for node in self.nodes:
            self.power_on(node)
        self.wait_for_nodes()

    def stop(self) -> None:
        """Ends exactly what was started here, the nodes first."""
        if self.isolated:
            for machine in (*self.nodes, self.login):
                machine.kill()
            return
        names = [*(f"slurmd.{node.name}.pid" for node in self.nodes), "slurmctld.pid", "munged.pid"]
        for file in map(self.folder.joinpath, names):
            if file.exists() and file.read_text().strip():
                pid = int(file.read_text())
                kill(pid, signal.SIGTERM)
                _await(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 20)

    def _write_configuration(self) -> None:
        keys = self.folder / "munge"
        keys.mkdir(mode=0o700)
        (self.folder / "state").mkdir()
        (keys / "key").write_bytes(os.urandom(128))
        (keys / "key").chmod(0o400)
        # Every node claims all cores: the jobs of the tests run one after the other.
        cores = os.cpu_count()
        memory_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20 * 9 // 10
        srun_ports = f"{self._srun_ports[0]}-{self._srun_ports[-1]}"
        text = CONFIGURATION.format(folder=self.folder, login=self.login, srun_ports=srun_ports)
        gpus = ""
        for index, node in enumerate(self.nodes):
            (self.folder / f"spool.{node.name}").mkdir()
            files = [self.folder / f"spool.{node.name}/gpu{number}" for number in range(1 if index else 2)]
            text += f"NodeName={node.name} NodeHostname={node.hostname} NodeAddr={node.address} Port={node.port} "
            text += f"CPUs={cores} RealMemory={memory_mib} Gres=gpu:{len(files)} State=UNKNOWN\n"
            for file in files:
                os.mknod(file, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # /dev/null: SLURM wants a device
                gpus += f"NodeName={node.name} Name=gpu File={file}\n"
        names = ",".join(node.name for node in self.nodes)
        text += f"PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP\n"
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(gpus)

    # ---- nodes ----

    def power_on(self, node: Machine | Loopback) -> None:
        """The first node knows its own name, as 127.0.1.1; the others do not know theirs."""
        if self.isolated:
            node.start(knows_itself=node is self.nodes[0])
        self.start_slurmd(node)

    def start_slurmd(self, node: Machine | Loopback) -> None:
        """Returns once SLURM knows of it: until then it would still send jobs to the one before."""
        since = int(time.time())
        self.run("slurmd", "-N", node.name, on=node)
        _await(lambda: self._slurmd_start(node) >= since, 60, lambda: self.run("scontrol", "show", "node", node.name))

    def _slurmd_start(self, node: Machine | Loopback) -> float:
        """By what it told SLURM, in seconds since the epoch; 0 before it has."""
        text = self._node_field(node, "SlurmdStartTime")
        return 0 if text == "None" else datetime.fromisoformat(text).timestamp()

    def kill_slurmd(self, node: Machine | Loopback) -> None:
        """The daemon alone: jobs live on."""
        self.run("kill", "-9", (self.folder / f"slurmd.{node.name}.pid").read_text().strip(), on=node)

    def restore(self) -> None:
        """Ends every job, mends every link, switches on every node, and waits until SLURM uses them all."""
        self.run("scancel", "--user=root")
        for node in self.nodes if self.isolated else []:
            self.repair(node)
        self.wait_for_nodes()

    def repair(self, node: Machine) -> None:
        """Switches it on, thaws it, mends its link, starts its slurmd, gives it to SLURM: whatever it needs."""
        if node.is_on:
            node.signal(signal.SIGCONT)
            node.mend()
        else:
            self.power_on(node)
        if not node.processes("slurmd -N"):
            self.start_slurmd(node)
        self.resume(node.name)

    def wait_for_nodes(self) -> None:
        def all_idle() -> bool:
            states = []
            for line in self.run("sinfo", "-h", "-N", "-o", "%N %T").splitlines():
                name, state = line.split()
                if state.startswith(("down", "drain")):
                    self.resume(name)
                states.append(state)
            return states == ["idle"] * len(self.nodes)  # `idle*` has not answered yet

        _await(all_idle, 60, lambda: self.run("sinfo", "-N", "-l"))

    def resume(self, name: str) -> None:
        with suppress(AssertionError):  # it is not down, or has resumed by itself
            self.run("scontrol", "update", f"NodeName={name}", "State=RESUME")

    def num_idle(self) -> int:
        return int(self.run("sinfo", "-h", "-t", "idle", "-o", "%D").strip() or 0)

    def declare_down(self, node: Machine | Loopback) -> None:
        """What SLURM itself does after SlurmdTimeout without an answer."""
        self.run("scontrol", "update", f"NodeName={node.name}", "State=DOWN", "Reason=test")

    def drain(self, node: Machine | Loopback) -> None:
        self.run("scontrol", "update", f"NodeName={node.name}", "State=DRAIN", "Reason=test")

    # ---- jobs ----

    def submit(
        self, *command: str, environment: dict[str, str] | None = None, folder: Path | None = None, **options: str
    ) -> str:
        """`sbatch` with its options, in `folder`; gives the job's number. Output of the job: `output(job)`."""
        flags = [f"--{name}".replace("_", "-") + (f"={value}" if value else "") for name, value in options.items()]
        flags += [f"--output={self.folder}/job-%j.txt", "--parsable"]
        return self.run("sbatch", *flags, *command, environment=environment, folder=folder).strip()

    def output(self, job: str) -> str:
        file = self.folder / f"job-{job}.txt"
        return file.read_text("utf-8", "replace") if file.exists() else ""

    def wait_for(self, job: str, text: str, timeout: float = 240) -> None:
        def said() -> bool:
            if text in self.output(job):
                return True
            assert self.state(job) in ("PENDING", "RUNNING", "COMPLETING"), f"no {text!r} in\n{self.output(job)}"
            return False

        _await(said, timeout, lambda: f"no {text!r} in\n{self.output(job)}")

    def wait(self, job: str, *states: str, timeout: float = 240) -> None:
        """Until the job is in one of these states, such as COMPLETED."""
        _await(lambda: self.state(job) in states, timeout, lambda: f"job is {self.state(job)}:\n{self.output(job)}")

    def state(self, job: str) -> str:
        return self._field(job, "JobState")

    def restarts(self, job: str) -> int:
        return int(self._field(job, "Restarts"))

    def exit_code(self, job: str) -> int:
        return int(self._field(job, "ExitCode").split(":")[0])

    def batch_host(self, job: str) -> str:
        return self._field(job, "BatchHost")

    def signal(self, job: str, name: str) -> None:
        """To all processes of the job's steps, as `--signal=NAME@SECONDS` sends it."""
        self.run("scancel", f"--signal={name}", job)

    def cancel(self, job: str) -> None:
        self.run("scancel", job)

    def start_now(self, job: str) -> None:
        """SLURM holds a requeued job back for two minutes; this lets it go at once."""
        _await(lambda: self.state(job) == "PENDING", 60, lambda: f"job is {self.state(job)}")
        time.sleep(3)  # a node refuses a job that it killed in the same second
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def run(
        self,
        *command: str,
        on: Machine | Loopback | None = None,
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> str:
        """What a command prints that runs on a node, by default the login node."""
        done = self.attempt(*command, on=on, environment=environment, folder=folder)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def attempt(
        self,
        *command: str,
        on: Machine | Loopback | None = None,
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
        input: str | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """As `run`, for commands that may fail."""
        words = (on or self.login).command("env", f"--chdir={folder or HOME}", *command)
        environment = {**self._environment, **(environment or {})}
        stdin = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=timeout, check=False, **stdin
        )

    def _field(self, job: str, name: str) -> str:
        return _value(self.run("scontrol", "show", "job", job), name)

    def _node_field(self, node: Machine | Loopback, name: str) -> str:
        return _value(self.run("scontrol", "show", "node", node.name), name)


def _value(shown: str, name: str) -> str:
    """Of what `scontrol show` prints."""
    return next(word.partition("=")[2] for word in shown.split() if word.startswith(f"{name}="))


def _await(
    condition: Callable[[], bool], timeout: float, describe: Callable[[], str] = lambda: "SLURM does not answer"
) -> None:
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
