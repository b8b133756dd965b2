"""One node's part of a step: its torchrun, which meets those of the other nodes.

In a SLURM job srun starts it: `python -m pretrain.launch.node NPROC MODULE ARGUMENTS`. Without SLURM hosts.py does.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from model.errors import UserError
from pretrain.launch import environment, meeting
from pretrain.launch.gpus import ranks_of_node
from pretrain.launch.interfaces import interface_variables
from pretrain.launch.knocks import Knocks
from pretrain.launch.local import run_ranks
from pretrain.launch.open_files import check_limit
from pretrain.launch.outcome import ExitCode, Run, agreed_code, own_code
from pretrain.launch.pulse import FirstNode, OtherNode
from pretrain.launch.slurm import COUNT_GPUS, Task, node_address, number_of, say, slurmd_places
from pretrain.launch.tolerance import DETECT_SECONDS, Tolerance

JOIN_SECONDS = 300


QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""torch warns of names that do not resolve, and prints the stack of every call that a lost node has left unanswered."""


@dataclass(frozen=True)
class Part:
    """What one node does in a step."""

    task: Task
    module: Sequence[str]
    nproc: int
    own: str
    """This node's address."""
    first: str
    """The first node's, as this one reaches it."""
    ports: Sequence[int]
    """Of the first node, to try in this order."""
    peer: str | None = None
    """Another node's, if there is one."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment of the ranks, besides that of this process."""


def run_part(
    part: Part, pulse: FirstNode | OtherNode, join_seconds: float, settle: Callable[[Run], int] = agreed_code
) -> int | None:
    """Runs this node's ranks and waits for them. Returns their exit code, which `settle` makes out.

    None: the first node was not found within `join_seconds`. Raises UserError where the first node has no free ports,
    or may not have enough files open.
    """
    interface = interface_variables(part.own, part.peer)
    variables = {name: os.environ.get(name) or value for name, value in {**interface, **QUIET}.items()}

    def ranks(port: int, more: Mapping[str, str]) -> int:
        options = rendezvous_options(part.task, part.own, part.first, port)
        variables_of_ranks = {**variables, **part.variables, **more}
        return run_ranks(part.module, part.nproc, options, variables_of_ranks, must_leave=lambda: pulse.has_stopped)

    if isinstance(pulse, FirstNode):
        check_limit(len(part.task.nodes) * part.nproc)
        with meeting.invitation(part.task.key, part.ports, pulse) as port:
            return settle(lambda more: ranks(port, more))
    found = meeting.find(part.task.key, part.first, part.ports, join_seconds)
    if found is None:
        return None
    with pulse.listening(part.first, found.door):
        return settle(lambda more: ranks(found.rendezvous, more))


def run_node(task: Task, module: Sequence[str], nproc: int) -> int:
    """A node's part of a SLURM job. Returns its ranks' exit code, on the first node the one they agreed on."""
    own, first = node_address(task.name), node_address(task.nodes[0])
    peer = node_address(task.nodes[1 if task.is_head else 0]) if len(task.nodes) > 1 else None
    ports = meeting.ports_from(number_of("MASTER_PORT", 20000 + task.job_id % 10000))
    join_seconds = number_of("ESPALIER_JOIN_SECONDS", JOIN_SECONDS)
    detect_seconds = float(os.environ.get(DETECT_SECONDS) or Tolerance.detect_seconds)
    pulse = (
        FirstNode(task.nodes[1:], detect_seconds, join_seconds, Knocks(lambda: slurmd_places(task.nodes[1:])))
        if task.is_head
        else OtherNode(task.name, task.nodes[0], detect_seconds)
    )
    part = Part(task, module, nproc, own, first, ports, peer)
    code = run_part(part, pulse, join_seconds, agreed_code if task.is_head else own_code)
    if code is None:
        raise UserError(
            f"node {task.name} cannot reach {first}, the first node of the job, at ports {ports[0]} to {ports[-1]}; "
            f"check the network between them, or exclude the node: sbatch --exclude={task.name}"
        )
    return code


def rendezvous_options(task: Task, own_address: str, head: str, port: int) -> list[str]:
    """torchrun's options: a c10d rendezvous at the first node, which may take minutes to listen there."""
    endpoint = f"[{head}]:{port}" if ":" in head else f"{head}:{port}"
    return [
        *("--nnodes", str(len(task.nodes)), "--local-addr", own_address),
        *("--rdzv-backend", "c10d", "--rdzv-id", task.key, "--rdzv-endpoint", endpoint),
        *("--rdzv-conf", f"is_host={int(task.is_head)},join_timeout=600,read_timeout=600,close_timeout=10"),
    ]


def main(arguments: list[str]) -> int:
    environment.set_environment()
    try:
        task = Task.from_environment()
        assert task, "srun starts this"
        nproc = None if arguments[0] == COUNT_GPUS else int(arguments[0])
        return run_node(task, arguments[1:], nproc or ranks_of_node())
    except UserError as error:
        say(str(error))
        return ExitCode.MISTAKE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
