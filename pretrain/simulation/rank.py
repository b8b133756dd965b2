"""A run as one of its ranks goes through it, without the others: at every stage the start or the change of shape, a
step, the rows of a step, and a checkpoint.

Engines, moves and the collecting of a checkpoint's state are those of a real run, on a group whose messages go
nowhere: nothing is random or trained, so most numbers are garbage, and their places and sizes are right. A step is
counted by the cost model, since its work would take a real rank's time.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import torch.distributed as dist
from deepspeed.runtime.engine import DeepSpeedEngine

from growth.carry import carried_over
from growth.change import ShapeChange
from growth.learned_maps import LearnedMaps, Learning
from growth.operators import shape_change
from growth.operators.base import Correlation, Inputs
from growth.operators.saved_state import INITIAL
from growth.state import Fetch, TrainingState, fresh_state
from model.config import BertConfig
from model.errors import UserError
from model.parameters import parameter_table
from pretrain.checkpoint.even import evenly
from pretrain.cost.time.messages import messages
from pretrain.data import Corpus, DataPosition
from pretrain.engine.exchange import read_state
from pretrain.engine.move import move, start_engine
from pretrain.engine.spread import fetch_from
from pretrain.engine.zero import basic_optimizer, destroy
from pretrain.recipe import ResolvedStage, Run
from pretrain.simulation.messages import Sent, recorded
from pretrain.training.reading import Reader
from pretrain.training.stages import engine_settings


@dataclass(frozen=True)
class Event:
    """What one thing that happens in a run asks of this rank."""

    name: str
    sent: Counter[Sent] = field(default_factory=Counter)
    seconds: float = 0.0
    """That it takes a core of this machine: of the rank's own work, since there is nobody to wait for."""


class SimulatedRank:
    """`on_cpu`: what the ranks of the real run compute on. `corpus`: its rows are found and dealt, if it is given."""

    engine: DeepSpeedEngine  # None before the first stage and while the state moves to another engine

    def __init__(self, run: Run, corpus: Corpus | None, on_cpu: bool):
        self.run, self.corpus, self.on_cpu = run, corpus, on_cpu
        self.engine = None

    def events(self) -> Iterator[Event]:
        for previous, stage in pairwise((None, *self.run.stages)):
            assert stage is not None
            if previous is None:
                yield _event(f"start of {stage.name}", partial(self._start, stage))
            elif stage.needs_move(previous):
                yield _event(f"change to {stage.name}", partial(self._move, previous, stage))
            if self.corpus is not None:
                yield _event(f"rows of a step of {stage.name}", partial(self._read, stage))
            yield Event(f"step of {stage.name}", self._step_messages(stage))
            self._pretend_to_train(stage)
            yield _event(f"checkpoint of {stage.name}", self._checkpoint)
        destroy(self._released())

    def _start(self, stage: ResolvedStage) -> None:
        state = _fresh(stage.config, self.run.recipe.seed)
        self.engine = start_engine(state, engine_settings(self.run.recipe, stage))

    def _move(self, previous: ResolvedStage, stage: ResolvedStage) -> None:
        settings = engine_settings(self.run.recipe, stage)
        previous = replace(previous, config=self.engine.module.config)  # operators may leave widths to the state
        self.engine, _ = move(self._released(), settings, lambda state: self._change(previous, stage, state))

    def _released(self) -> DeepSpeedEngine:
        """The engine, of which no reference may stay."""
        engine, self.engine = self.engine, None
        return engine

    def _change(self, previous: ResolvedStage, stage: ResolvedStage, state: TrainingState) -> ShapeChange:
        """As operators decide it without rows: uses of a shared block are taken to agree, maps stay as they are
        drawn."""

        def correlation(config: BertConfig, shared: BertConfig, fetch: Fetch) -> Correlation:
            return dict.fromkeys(parameter_table(shared), 1.0)

        def learn(maps: LearnedMaps, learning: Learning, fetch: Fetch) -> LearnedMaps:
            return maps

        before, after = previous.optimizer.chosen, stage.optimizer.chosen
        inputs = Inputs(fetch_from(state), correlation, self._saved, before.moment_rule, learn=learn)
        change = shape_change(previous.config, stage.grow, stage.shape, inputs)
        return change if before == after else carried_over(change, before.averages, after.averages)

    def _saved(self, name: str) -> tuple[BertConfig, Fetch]:
        """A state that the run saves by this name, with fresh weights in its place."""
        kept = {each.keep: each.config for each in self.run.stages if each.keep} | {INITIAL: self.run.stages[0].config}
        if name not in kept:
            raise UserError(f"a change of shape reads {name}, which a simulation does not: name a state of the run")
        return kept[name], fetch_from(_fresh(kept[name], self.run.recipe.seed))

    def _read(self, stage: ResolvedStage) -> None:
        assert self.corpus is not None
        Reader(self.corpus, self.run.recipe, stage, DataPosition()).read(stage.start)

    def _checkpoint(self) -> None:
        evenly(read_state(self.engine))

    def _step_messages(self, stage: ResolvedStage) -> Counter[Sent]:
        sizes = {"data": stage.data_parallel, "tensor": stage.tensor_parallel, "all": dist.get_world_size()}
        sent: Counter[Sent] = Counter()
        if stage.align is not None:  # a step with the teacher
            stage = replace(stage, end=min(stage.end, stage.align.end))
        for message in messages(stage, self.on_cpu):
            if sizes[message.over] > 1:
                sent[Sent(message.kind, sizes[message.over], message.num_bytes)] += int(message.times)
        return sent

    def _pretend_to_train(self, stage: ResolvedStage) -> None:
        """Parameters with different steps are of different groups, also in the engines that follow."""
        for state in basic_optimizer(self.engine).state.values():
            state["step"] += max(1, int(stage.length))


def _event(name: str, act: Callable[[], object]) -> Event:
    began = time.process_time()
    with recorded() as sent:
        act()
    return Event(name, Counter(sent), time.process_time() - began)


def _fresh(config: BertConfig, seed: int) -> TrainingState:
    return fresh_state(config, seed, dist.get_rank(), dist.get_world_size())
