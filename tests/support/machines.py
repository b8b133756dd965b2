"""Machines that can fail, made of Linux namespaces on this one.

Each has its own addresses, host name, processes, /dev/shm and /tmp; every other folder is shared, as on a cluster with
one file system. Two switches join them, both inside the first machine: no link leads outside. Names of machines do not
resolve, except that some know their own as 127.0.1.1, which is what Debian's installer writes into /etc/hosts.

    eth0   192.168.77.x   the management network, first in every list
    ib0    10.77.0.x      the fabric: the machine's address; the link that is cut, slowed and delayed

Needs root, iproute2 and util-linux. Everything in a machine ends with its process 1, which ends with this process.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from tests.support.launching import children, command_line, kill

NETWORKS = {"eth0": "192.168.77", "ib0": "10.77.0"}
FABRIC = "ib0"
TOOLS = ("ip", "tc", "nsenter", "unshare", "setpriv")

# Process 1 of a machine: $1 its name, $2 its own folder, the others folders below /tmp that all machines share.
# The new /tmp is furnished elsewhere and moved into place, because it hides the old one.
PROCESS_1 = """
set -eu
name=$1 own=$2; shift 2
hostname "$name"
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs "$own/tmp"
chmod 1777 "$own/tmp"
for shared; do
  mkdir -p "$own/tmp${shared#/tmp}"
  mount --bind "$shared" "$own/tmp${shared#/tmp}"
done
mount --bind "$own/hosts" /etc/hosts
mount --move "$own/tmp" /tmp
ip link set lo up
echo ready
exec >/dev/null
while :; do wait; sleep 1; done
"""


def why_not() -> str:
    """Why there can be no such machines here; empty when there can."""
    absent = [name for name in TOOLS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} missing; apt-get install iproute2 util-linux"
    tried = "ip link add test0 type bridge && ip link add test1 type veth peer name test2 && mount -t tmpfs tmpfs /mnt"
    space = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
    done = subprocess.run([*space, "sh", "-c", tried], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"namespaces are not permitted here: {done.stderr.strip()}"


def can_delay() -> bool:
    """Whether this kernel delays packets: netem is a module that small kernels lack."""
    tried = "ip link add test1 type veth peer name test2 && tc qdisc add dev test1 root netem delay 1ms"
    return subprocess.run(["unshare", "--net", "sh", "-c", tried], capture_output=True, check=False).returncode == 0


class Machine:
    """`number` is the last part of its addresses; the machine that is `switch` to others comes first."""

    port = 6818  # of its one daemon

    def __init__(self, name: str, number: int, folder: Path, shared: Sequence[Path], switch: "Machine | None" = None):
        self.name = self.hostname = name
        self.address = f"{NETWORKS[FABRIC]}.{number}"
        self._number = number
        self._folder = folder / name
        self._shared = [str(path) for path in shared if path.is_relative_to("/tmp")]
        self._switch = switch
        self._process: subprocess.Popen[str] | None = None

    @property
    def is_on(self) -> bool:
        return self._process is not None

    def start(self, knows_itself: bool = False) -> None:
        """`knows_itself`: its own name resolves, to 127.0.1.1."""
        (self._folder / "tmp").mkdir(parents=True, exist_ok=True)
        hosts = "127.0.0.1 localhost\n" + (f"127.0.1.1 {self.name}\n" if knows_itself else "")
        (self._folder / "hosts").write_text(hosts)
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL",
             "unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child",
             "sh", "-c", PROCESS_1, "sh", self.name, str(self._folder), *self._shared],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said == "ready\n", f"machine {self.name}: {said}{self._process.stdout.read()}"
        for link, network in NETWORKS.items():
            self._plug_in(link, f"{network}.{self._number}/24")

    def kill(self) -> None:
        """As when its power fails: every process is gone at once, and what lay in /tmp."""
        if self._process is None:
            return
        entrances = self._entrances()
        kill(self._process_1(), signal.SIGKILL)
        for pid in entrances:  # a frozen one would not collect its child, for which process 1 waits
            kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        if self._switch:
            for link in NETWORKS:
                with suppress(AssertionError):  # the kernel may have removed it by now
                    self._switch._ip("link", "del", self._port_of(link))

    # ---- processes ----

    def command(self, *words: str) -> list[str]:
        """The command that runs `words` on the machine."""
        spaces = ["--net", "--mount", "--uts", "--ipc", "--pid"]
        return ["nsenter", "--target", str(self._process_1()), *spaces, *words]

    def processes(self, text: str = "") -> list[int]:
        """Process ids, as seen from outside, of those whose command line contains `text`; not process 1."""
        first = self._process_1()
        space = os.readlink(f"/proc/{first}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "ns/pid") == space:
                    found.append(int(entry.name))
        return [
            pid
            for pid in found
            if pid != first and text in command_line(pid).replace(b"\0", b" ").decode(errors="replace")
        ]

    def signal(self, number: int, text: str = "") -> None:
        """To every process whose command line contains `text`: SIGSTOP freezes the machine, SIGCONT thaws it."""
        processes = self.processes(text)
        # nsenter stops together with the command that it brought in, and is outside.
        for pid in [*processes, *(self._entrances() if number == signal.SIGCONT else [])]:
            kill(pid, number)

    def _entrances(self) -> list[int]:
        """The processes outside that started one inside."""
        inside = self.processes()
        return [pid for pid in map(_parent, inside) if pid and pid not in [*inside, self._process_1()]]

    # ---- its link to the fabric ----

    def cut(self, way: Literal["both", "in", "out"] = "both") -> None:
        """Packets are lost, and nobody is told. `in` loses only those to this machine, `out` only those from it."""
        if way in ("both", "in"):
            self._shape_in("blackhole")
        if way in ("both", "out"):
            self._shape_out("blackhole")

    def limit(self, rate: str) -> None:
        """`rate` as tc writes it, such as `10mbit`, each way."""
        for shape in (self._shape_in, self._shape_out):
            shape("tbf", "rate", rate, "burst", "64kb", "latency", "400ms")

    def delay(self, milliseconds: float) -> None:
        """Each way. Only where `can_delay()`."""
        for shape in (self._shape_in, self._shape_out):
            shape("netem", "delay", f"{milliseconds}ms")

    def mend(self) -> None:
        """Undoes `cut`, `limit` and `delay`."""
        assert self._switch
        for machine, device in ((self._switch, self._port_of(FABRIC)), (self, FABRIC)):
            with suppress(AssertionError):  # it was whole
                machine._tc("del", "dev", device, "root")

    def _shape_in(self, *discipline: str) -> None:
        assert self._switch
        self._switch._tc("replace", "dev", self._port_of(FABRIC), "root", *discipline)

    def _shape_out(self, *discipline: str) -> None:
        self._tc("replace", "dev", FABRIC, "root", *discipline)

    # ---- set-up ----

    def _plug_in(self, link: str, address: str) -> None:
        if self._switch is None:
            self._ip("link", "add", link, "type", "bridge")
        else:
            port = self._port_of(link)
            peer = ("peer", "name", link, "netns", str(self._process_1()))
            self._switch._ip("link", "add", port, "type", "veth", *peer)
            self._switch._ip("link", "set", port, "master", link, "up")
        self._ip("addr", "add", address, "dev", link)
        self._ip("link", "set", link, "up")

    def _port_of(self, link: str) -> str:
        return f"{link}.{self._number}"

    def _process_1(self) -> int:
        assert self._process, f"machine {self.name} is off"
        return children(self._process.pid)[0]

    def _ip(self, *words: str) -> None:
        self._in_network("ip", *words)

    def _tc(self, *words: str) -> None:
        self._in_network("tc", "qdisc", *words)

    def _in_network(self, *words: str) -> None:
        command = ["nsenter", "--target", str(self._process_1()), "--net", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"machine {self.name}: {' '.join(words)}: {done.stderr}"


def _parent(pid: int) -> int:
    """0 where it is gone."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


class Loopback:
    """Where namespaces are not permitted: this machine under another name. It cannot fail alone."""

    hostname = "localhost"
    address = "127.0.0.1"

    def __init__(self, name: str, port: int):
        self.name = name
        self.port = port

    def command(self, *words: str) -> list[str]:
        return list(words)
