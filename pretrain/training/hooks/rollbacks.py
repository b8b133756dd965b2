"""Going back to the last checkpoint, in the same processes: counted, reported, and given up after some."""

from typing import Any, NoReturn

from pretrain.data import DataPosition
from pretrain.engine.exits import Stop
from pretrain.recipe import ResolvedStage
from pretrain.training.events import Hook, TrainerView


class Rollback(Exception):
    """Raised on every rank: resume from the last checkpoint, and read on from `position` if one is given."""

    def __init__(self, position: DataPosition | None):
        self.position = position


class Rollbacks(Hook):
    """Those of a run. It outlives them: the other hooks are made again."""

    name = "non_finite"  # of the guard that once did this too

    def __init__(self, limit: int):
        self.limit = limit
        self.number = 0
        self.unreported: tuple[str, str] | None = None
        """Why the run has just rolled back, and what becomes of the steps since then."""

    @property
    def under_way(self) -> bool:
        """Whether the run goes back just now."""
        return self.unreported is not None

    def on_stage(self, trainer: TrainerView, stage: ResolvedStage) -> None:
        """Reports a rollback: now Metrics have dropped the steps that it undid."""
        if self.unreported:
            (reason, what_now), step = self.unreported, trainer.progress.step
            message = f"{reason}: rolled back to step {step}; {what_now}"
            trainer.call("on_event", {"event": "rollback", "step": step, "message": message})
            self.unreported = None

    def skip_data(self, trainer: TrainerView, reason: str, cure: str) -> NoReturn:
        """Goes back because of the data, and skips those read since. Every rank has to call it."""
        self._count(reason, cure, "the data read since then is skipped")
        raise Rollback(trainer.progress.position)

    def repeat(self, reason: str, cure: str) -> NoReturn:
        """Goes back because of a fault that the same steps need not have again. Every rank has to call it."""
        self._count(reason, cure, "the steps since then are taken again")
        raise Rollback(None)

    def _count(self, reason: str, cure: str, what_now: str) -> None:
        if self.number >= self.limit:
            raise Stop(f"{reason}, after {self.number} rollbacks; {cure}")
        self.number += 1
        self.unreported = reason, what_now

    def state(self) -> dict[str, Any]:
        return {"roll_backs": self.number}

    def restore(self, state: dict[str, Any]) -> None:
        self.number = max(self.number, state["roll_backs"])
