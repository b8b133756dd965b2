"""The steps in which an operator learns its change of shape (LiGO), on the rows that its stage is about to begin with.

They start where the run is and leave its position as it is. So the maps follow from the state, the seed and the
position: a run that is stopped meanwhile comes back to the state before the change, and learns the same. Their tokens
and FLOPs count as the run's.
"""

import torch

from growth.learned_maps import LearnedMaps, Learning, map_flops
from growth.state import Fetch
from pretrain.cost.flops import training_flops
from pretrain.engine import signals
from pretrain.engine.agreement import asked_to_stop
from pretrain.engine.build import PRECISIONS
from pretrain.engine.exits import Stop
from pretrain.engine.learned_maps import LearningRows, learn_maps
from pretrain.launch.outcome import ExitCode
from pretrain.training.events import TrainerView
from pretrain.training.place import layout_of
from pretrain.training.reading import Reader


def learn(trainer: TrainerView, maps: LearnedMaps, learning: Learning, fetch: Fetch) -> LearnedMaps:
    """Learns maps on the way to the trainer's stage, from the state that `fetch` gives. Collective."""
    stage, progress, recipe = trainer.stage, trainer.progress, trainer.run.recipe
    layout, step_flops = layout_of(stage), map_flops(maps.source, maps.target)
    layout.install()
    reader = Reader(trainer.corpus, recipe, stage, progress.position)
    flops_before, taken = progress.flops, 0

    def read() -> LearningRows:
        nonlocal taken
        if asked_to_stop():
            raise Stop(
                f"{signals.received or 'a signal to another rank'} received in step {taken} of learning the maps to "
                f"stage {stage.name}: the same command resumes before them",
                code=ExitCode.PREEMPTED,
            )
        taken += 1
        trainer.start_activity(f"step {taken} of learning the maps to stage {stage.name}")
        rows = reader.read(trainer.now)
        num_masked, num_sentences, num_tokens = rows.totals()
        progress.num_tokens += num_tokens
        progress.flops += training_flops(maps.target, stage.global_batch, stage.sequence, num_masked) + step_flops
        return LearningRows(rows.batches, 1 / max(num_masked, 1), 1 / max(num_sentences, 1))

    # fp16 would need its loss scaled, so the model computes in fp32 there.
    dtype = torch.float32 if stage.precision == "fp16" else PRECISIONS[stage.precision]
    learned, losses = learn_maps(maps, learning, fetch, layout, dtype, read, recipe.recompute)
    flops = progress.flops - flops_before
    told = f"{learning.steps:,} steps on the maps to stage {stage.name}: loss {losses[0]:.3f} -> {losses[-1]:.3f}"
    event = {
        "event": "learned_maps",
        "step": progress.step,
        "stage": stage.name,
        "learning_steps": learning.steps,
        "losses": losses,
        "flops": flops,
        "message": f"step {progress.step:,}: {told}, {flops:.3g} FLOPs",
    }
    trainer.call("on_event", event)
    trainer.start_activity(f"entry into stage {stage.name}")
    return learned
