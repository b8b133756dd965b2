"""Writes report.html whenever the run stops."""

from pretrain.runs.folder import RunFolder
from pretrain.runs.report import write_report
from pretrain.training.events import Hook, TrainerView


class Report(Hook):
    def __init__(self, folder: RunFolder):
        self.folder = folder

    def on_leave(self, trainer: TrainerView) -> None:
        write_report(self.folder.path)

    def on_end(self, trainer: TrainerView) -> None:
        write_report(self.folder.path)
