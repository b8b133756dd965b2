"""How long steps stand still for a checkpoint, and for a change of shape.

The state goes from the ranks that hold parts of it to the owners of whole tensors, and from there to the ranks that
write it, or to the owners of the new state and the ranks of a new engine. All wait for the rank that owns most: of many
ranks the one that has the word embedding, however many there are.
"""

from collections import Counter
from dataclasses import dataclass

from growth.state import assign_owners
from model.parameters import parameter_table
from pretrain.cost.memory import FP32_BYTES
from pretrain.cost.time.machine import Machine
from pretrain.cost.time.messages import ALL_TO_ALL
from pretrain.recipe import ResolvedStage, Run


@dataclass(frozen=True)
class Change:
    """Seconds of a change of shape, layout or optimizer."""

    moving: float = 0.0
    building: float = 0.0
    """A new engine, and its compilation."""
    learning: float = 0.0
    """Steps in which operators learn it."""

    @property
    def seconds(self) -> float:
        return self.moving + self.building + self.learning


def checkpoint_seconds(stage: ResolvedStage, num_ranks: int, machine: Machine) -> float:
    """Until the state is in the memory of the hosts that write it."""
    size = largest_bytes(stage, num_ranks)
    return _trip_seconds(size, num_ranks, machine) * (2 if num_ranks > 1 else 1)


def change_seconds(run: Run, index: int, machine: Machine) -> Change:
    """Of the change that leads to a stage: none where it keeps the engine of the stage before."""
    if index == 0:
        return Change()
    before, stage = run.stages[index - 1], run.stages[index]
    if not stage.needs_move(before):
        return Change()
    old, new = (largest_bytes(each, run.num_ranks) for each in (before, stage))
    compiled = machine.host.compile_seconds if not machine.on_cpu and run.recipe.compile else 0.0
    return Change(_trip_seconds(2 * old + new, run.num_ranks, machine), machine.host.rebuild_seconds + compiled)


def state_bytes(stage: ResolvedStage) -> int:
    """Of the whole training state, in memory and in a checkpoint: weights and the moments that are kept, in fp32."""
    return sum(_record_bytes(stage).values())


def largest_bytes(stage: ResolvedStage, num_ranks: int) -> int:
    """Of the state, on the rank that owns most of it."""
    owners, owned = assign_owners(stage.config, num_ranks), Counter[int]()
    for name, size in _record_bytes(stage).items():
        owned[owners[name]] += size
    return max(owned.values())


def _record_bytes(stage: ResolvedStage) -> dict[str, int]:
    moments_of = stage.optimizer.chosen.group_rules.moments_of
    table = parameter_table(stage.config)
    return {name: FP32_BYTES * spec.numel * (1 + len(moments_of(spec))) for name, spec in table.items()}


def _trip_seconds(num_bytes: int, num_ranks: int, machine: Machine) -> float:
    """Between a rank and others, through its share of the network, and between its device and the host's memory."""
    crosses = num_ranks > machine.ranks and machine.between is not None
    link = machine.between if crosses and machine.between else machine.within
    rate = link.rate(ALL_TO_ALL, num_bytes) / (machine.ranks if crosses else 1)
    sending = num_bytes / rate if num_ranks > 1 else 0.0
    return sending + num_bytes / (1e9 * machine.host.copy_gb_per_second)
