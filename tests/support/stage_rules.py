"""A run that does not train, for rules to watch."""

from types import SimpleNamespace

from pretrain.checkpoint.progress import Progress
from pretrain.cost.savings import stage_flops
from pretrain.recipe import Run


def make_believe(run: Run, index: int = 0) -> SimpleNamespace:
    """What a rule sees at the beginning of a stage."""

    def flops_per_token(stage) -> float:
        return stage_flops(stage) / (stage.global_batch * stage.sequence)

    return SimpleNamespace(
        run=run, stage=run.stages[index], progress=Progress(), now=0, flops_per_token=flops_per_token
    )
