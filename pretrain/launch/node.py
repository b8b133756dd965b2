"""One node's part of a SLURM job, started by srun: `python -m pretrain.launch.node NPROC MODULE ARGUMENTS`."""

import os
import sys
from collections.abc import Mapping, Sequence

from model.errors import UserError
from pretrain.launch import environment, meeting
from pretrain.launch.gpus import ranks_of_node
from pretrain.launch.interfaces import interface_variables
from pretrain.launch.local import run_ranks
from pretrain.launch.outcome import CODE_FILE, ExitCode, agreed_code, code_file
from pretrain.launch.pulse import FirstNode, OtherNode, Pulse
from pretrain.launch.slurm import COUNT_GPUS, Task, node_address, number_of, say
from pretrain.launch.tolerance import DETECT_SECONDS, Tolerance

JOIN_SECONDS = 300


QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""torch warns of names that do not resolve, and prints the stack of every call that a lost node has left unanswered."""


def run_node(task: Task, module: Sequence[str], nproc: int) -> int:
    """Runs this node's ranks and waits for them. Returns their exit code, on the first node the one they agreed on."""
    own = node_address(task.name)
    peer = task.nodes[1 if task.is_head else 0] if len(task.nodes) > 1 else None
    interface = interface_variables(own, node_address(peer) if peer else None)
    variables = {name: os.environ.get(name) or value for name, value in {**interface, **QUIET}.items()}
    ports = meeting.ports_from(number_of("MASTER_PORT", 20000 + task.job_id % 10000))

    join_seconds = number_of("ESPALIER_JOIN_SECONDS", JOIN_SECONDS)
    detect_seconds = float(os.environ.get(DETECT_SECONDS) or Tolerance.detect_seconds)

    def run(head: str, port: int, more: Mapping[str, str], pulse: Pulse) -> int:
        options = rendezvous_options(task, own, head, port)
        return run_ranks(module, nproc, options, {**variables, **more}, must_leave=lambda: pulse.has_stopped)

    if task.is_head:
        first = FirstNode(task.nodes[1:], detect_seconds, join_seconds)
        with meeting.invitation(task.key, ports, first) as port:
            return agreed_code(lambda variables: run(own, port, variables, first))
    head = node_address(task.nodes[0])
    found = meeting.find(task.key, head, ports, join_seconds)
    if found is None:
        raise UserError(
            f"node {task.name} cannot reach {head}, the first node of the job, at ports {ports[0]} to {ports[-1]}; "
            f"check the network between them, or exclude the node: sbatch --exclude={task.name}"
        )
    other = OtherNode(task.name, task.nodes[0], detect_seconds)
    # The file settles which rank of this node says why it stops; the first node tells the code.
    with other.listening(head, found.door), code_file() as file:
        return run(head, found.rendezvous, {CODE_FILE: str(file)}, other)


def rendezvous_options(task: Task, own_address: str, head: str, port: int) -> list[str]:
    """torchrun's options: a c10d rendezvous at the first node, which may take minutes to listen there."""
    return [
        *("--nnodes", str(len(task.nodes)), "--local-addr", own_address),
        *("--rdzv-backend", "c10d", "--rdzv-id", task.key, "--rdzv-endpoint", f"{head}:{port}"),
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
