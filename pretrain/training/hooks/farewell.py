"""Says at a run's end where its results are, and what can be done with them."""

from pretrain.checkpoint import find_checkpoint
from pretrain.runs.folder import RunFolder
from pretrain.training.events import Hook, TrainerView

NEXT = (
    ('fill {} "A [MASK] in a sentence."', "fill in words"),
    ("evaluate {}", "loss and accuracy"),
    ("export {}", "a folder for transformers"),
    ("finetune {} --task classify --data TABLE.csv", "on a table of your own"),
)


class Farewell(Hook):
    def __init__(self, folder: RunFolder):
        self.folder = folder

    def on_end(self, trainer: TrainerView) -> None:
        print(f"report      {self.folder.report}\ncheckpoint  {find_checkpoint(self.folder.path)}")
        for command, purpose in NEXT:
            print(f"next        ./launch.sh {command.format(self.folder.path)}  # {purpose}")
