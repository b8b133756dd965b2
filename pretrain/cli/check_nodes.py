"""The verb `check-nodes`: the look at the nodes with which a run begins, alone."""

from pathlib import Path

from pretrain.launch.outcome import ExitCode, leave
from pretrain.launch.rank import is_rank
from pretrain.launch.start import start_once
from pretrain.settings.options import OptionalInt


def check_nodes(nproc: OptionalInt = None) -> int:
    """Look at the nodes of a SLURM job, or at this machine, and name those at fault.

    Trains nothing. Exits with 1 if a node is at fault.

    Args:
        nproc: Number of processes to start on each node. Defaults to one per GPU, or 2 without GPUs.
    """
    from pretrain.cli.arguments import check_counts

    check_counts(nproc=[nproc])
    if not is_rank():
        return start_once(["pretrain", "check-nodes"], nproc)
    from pretrain.engine import signals

    signals.listen(())  # there is nothing to save
    import torch.distributed as dist

    from pretrain.engine.distributed import process_group
    from pretrain.engine.nodes import show, survey, verdict

    with process_group():
        nodes = survey(Path.cwd())
        if dist.get_rank() == 0:
            show(nodes)
    return leave(1) if verdict(nodes) else ExitCode.DONE
