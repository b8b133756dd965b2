"""One node's part of a SLURM job, started by srun: `python -m pretrain.launch.node NPROC MODULE ARGUMENTS`."""

import os
import socket
import sys
import time

from model.errors import UserError
from pretrain.launch import environment
from pretrain.launch.local import run_ranks
from pretrain.launch.outcome import CODE_FILE, ExitCode
from pretrain.launch.slurm import HEAD, Address, node_address, number_of, say

JOIN_SECONDS = 300


def run_node(module: list[str], nproc: int) -> int:
    """Runs this node's ranks and waits for them. Returns their exit code."""
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    host, _, port = os.environ[HEAD].rpartition(":")
    head = Address(host, int(port))
    is_head = number_of("SLURM_NODEID") == 0
    variables = {}
    if not is_head:
        variables[CODE_FILE] = os.devnull  # the first node says the exit code
        await_head(name, head, number_of("ESPALIER_JOIN_SECONDS", JOIN_SECONDS))
    return run_ranks(module, nproc, rendezvous_options(head, is_head, node_address(name)), variables)


def rendezvous_options(head: Address, is_head: bool, own_address: str) -> list[str]:
    """torchrun's options: a c10d rendezvous at the first node. Each step of each start of a job has its own."""
    step = "-".join(os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID"))
    return [
        *("--nnodes", os.environ["SLURM_STEP_NUM_NODES"], "--local-addr", own_address),
        *("--rdzv-backend", "c10d", "--rdzv-id", step, "--rdzv-endpoint", str(head)),
        *("--rdzv-conf", f"is_host={int(is_head)},join_timeout=600,close_timeout=10"),
    ]


def await_head(name: str, head: Address, seconds: float) -> None:
    """Waits until the first node listens. Raises UserError when it does not within the time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(head, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise UserError(
                    f"node {name} cannot reach {head} on the first node of the job; check the network between them, "
                    f"or exclude the node: sbatch --exclude={name}"
                ) from None
        time.sleep(0.5)


def main(arguments: list[str]) -> int:
    environment.set_environment()
    try:
        return run_node(arguments[1:], int(arguments[0]))
    except UserError as error:
        say(str(error))
        return ExitCode.MISTAKE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
