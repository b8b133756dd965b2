"""Writes report.html whenever the run stops."""

import sys

from model.errors import UserError
from pretrain.runs.folder import RunFolder
from pretrain.runs.report import write_report
from pretrain.training.events import Hook, TrainerView


class Report(Hook):
    def __init__(self, folder: RunFolder):
        self.folder = folder

    def on_leave(self, trainer: TrainerView) -> None:
        try:
            write_report(self.folder.path)
        except UserError as fault:  # of a full disk, for example, which is not why the run stops
            print(f"espalier: no report: {fault}", file=sys.stderr)

    def on_end(self, trainer: TrainerView) -> None:
        self.on_leave(trainer)
