"""Writes report.html whenever the run ends or is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretrain.runs.folder import RunFolder
from pretrain.runs.report import write_report
from pretrain.training.hooks.base import Hook

if TYPE_CHECKING:
    from pretrain.training.trainer import Trainer


class Report(Hook):
    """On rank 0 only, after Metrics, whose file it reads."""

    def __init__(self, folder: RunFolder):
        self.folder = folder

    def on_leave(self, trainer: Trainer) -> None:
        write_report(self.folder.path)

    def on_end(self, trainer: Trainer) -> None:
        write_report(self.folder.path)
