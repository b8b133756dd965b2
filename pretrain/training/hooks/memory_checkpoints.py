"""Keeps the state in the memory of the nodes every N steps: see pretrain/checkpoint/memory.py."""

import torch.distributed as dist

from pretrain.checkpoint.lineage import holder_of
from pretrain.checkpoint.memory import MemoryStore, age, home_of, name_of
from pretrain.checkpoint.store import newest_name
from pretrain.engine.agreement import from_rank_0
from pretrain.runs.folder import RunFolder
from pretrain.training.events import Hook, TrainerView
from pretrain.training.hooks.checkpoints import Checkpoints, state_of


class MemoryCheckpoints(Hook):
    def __init__(self, folder: RunFolder, every: int, checkpoints: Checkpoints):
        self.folder, self.every, self.checkpoints = folder, every, checkpoints
        self.store: MemoryStore | None = None
        self.reported = False

    def on_start(self, trainer: TrainerView) -> None:
        """What is newer than this start belongs to steps that it takes again, perhaps otherwise."""
        if self.every:
            self.store = MemoryStore(home_of(self.folder.path))
            self.store.drop(lambda name: age(name)[1] > trainer.progress.step)
            self.holder = from_rank_0(holder_of(self.folder.leases, self.folder.start.number))

    def on_boundary(self, trainer: TrainerView) -> None:
        if self.store is None:
            return
        self._report(trainer)
        step = trainer.progress.step
        if step % self.every == 0:
            trainer.call("on_save")
            trainer.start_activity(f"copy to memory at step {step}")
            state, saved = state_of(trainer)
            start = self.folder.start.number
            disk = newest_name(self.folder.checkpoints) if dist.get_rank() == 0 else ""  # rank 0's is saved
            origin = {"holder": self.holder, "disk": disk, "nodes": self.store.nodes}
            self.store.save(name_of(step, start), state, saved | {"start": start, "memory": origin})

    def on_end(self, trainer: TrainerView) -> None:
        self._close(all_on_disk=True)

    def on_leave(self, trainer: TrainerView) -> None:
        self._close(all_on_disk=self.checkpoints.saved_step == trainer.progress.step)

    def _close(self, all_on_disk: bool) -> None:
        if self.store is not None:
            self.store.flush()
            if all_on_disk:
                self.store.drop()
            self.store.close()
            self.store = None

    def _report(self, trainer: TrainerView) -> None:
        """Once, when a state could not be kept: the run goes on with its checkpoints on disk."""
        assert self.store
        if self.store.fault and not self.reported:
            self.reported = True
            message = f"the state is not kept in memory: {self.store.fault}; checkpoints on disk are not affected"
            trainer.call("on_event", {"event": "memory_checkpoint", "step": trainer.progress.step, "message": message})
