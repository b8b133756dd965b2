"""Processes forked from one that has imported the project and done nothing else: a start takes a moment, and not ten
seconds of a core.

    process = FORKED.Process(target=function, args=arguments)
"""

from multiprocessing import get_context

FORKED = get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        "pretrain.cost.plan",
        "pretrain.engine.distributed",
        "pretrain.runs.report",
        "pretrain.training.train",
        "pretrain.use.export",
        "pretrain.use.fill",
        "pretrain.use.grow",
        "torch.utils.tensorboard",
    ]
)
