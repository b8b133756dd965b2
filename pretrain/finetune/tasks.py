"""The tasks, and the settings that the papers searched. Column names are those of GLUE's own files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pretrain.finetune.metrics import Metric, accuracy, f1, matthews, pearson, spearman


@dataclass(frozen=True)
class GlueTask:
    """One task of GLUE. A task without labels is a regression."""

    folder: str
    """The task's folder in GLUE's download; the name on the Hub is its lower case without the hyphen."""
    columns: tuple[str, ...]
    """Columns of the first and the second sentence."""
    hub_columns: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    """As the files write them, in the order of the Hub's numbers."""
    metrics: Mapping[str, Metric]
    dev: tuple[str, ...] = ("dev",)
    """Files to score, each with all metrics."""
    may_lack_dev: bool = False
    """dev.tsv may be missing, because its license forbids sharing; part of train.tsv is scored instead."""

    @property
    def hub_name(self) -> str:
        return self.folder.lower().replace("-", "")


@dataclass(frozen=True)
class SquadTask:
    hub_name: str
    version: str
    """As in the file names: train-v1.1.json."""


ENTAILMENT = ("entailment", "not_entailment")
TASKS: dict[str, GlueTask | SquadTask] = {
    # CoLA's files have no header: source, label, the author's mark, sentence.
    "cola": GlueTask("CoLA", ("3",), ("sentence",), "1", ("0", "1"), {"matthews": matthews}),
    "sst2": GlueTask("SST-2", ("sentence",), ("sentence",), "label", ("0", "1"), {"accuracy": accuracy}),
    "mrpc": GlueTask(
        *("MRPC", ("#1 String", "#2 String"), ("sentence1", "sentence2"), "Quality", ("0", "1")),
        {"accuracy": accuracy, "f1": f1},
        may_lack_dev=True,
    ),
    "stsb": GlueTask(
        *("STS-B", ("sentence1", "sentence2"), ("sentence1", "sentence2"), "score", ()),
        {"pearson": pearson, "spearman": spearman},
    ),
    "qqp": GlueTask(
        *("QQP", ("question1", "question2"), ("question1", "question2"), "is_duplicate", ("0", "1")),
        {"accuracy": accuracy, "f1": f1},
    ),
    "mnli": GlueTask(
        *("MNLI", ("sentence1", "sentence2"), ("premise", "hypothesis"), "gold_label"),
        ("entailment", "neutral", "contradiction"),
        {"accuracy": accuracy},
        ("dev_matched", "dev_mismatched"),
    ),
    "qnli": GlueTask(
        *("QNLI", ("question", "sentence"), ("question", "sentence"), "label", ENTAILMENT), {"accuracy": accuracy}
    ),
    "rte": GlueTask(
        *("RTE", ("sentence1", "sentence2"), ("sentence1", "sentence2"), "label", ENTAILMENT), {"accuracy": accuracy}
    ),
    "wnli": GlueTask(
        *("WNLI", ("sentence1", "sentence2"), ("sentence1", "sentence2"), "label", ("0", "1")), {"accuracy": accuracy}
    ),
    "squad": SquadTask("rajpurkar/squad", "v1.1"),
    "squad2": SquadTask("rajpurkar/squad_v2", "v2.0"),
}


@dataclass(frozen=True)
class Settings:
    """Settings of one fine-tuning run."""

    lr: float
    """Peak learning rate, after linear warmup and before linear decay to 0."""
    batch: int
    epochs: int
    warmup: float = 0.1
    """Warmup, as a share of the steps."""
    weight_decay: float = 0.01
    grad_clip: float = 1.0

    def __str__(self) -> str:
        return f"lr {self.lr:g}, batch {self.batch}, {self.epochs} epoch{'s' * (self.epochs > 1)}"


@dataclass(frozen=True)
class Grid:
    """A grid of settings. Every combination is trained."""

    lr: tuple[float, ...]
    batch: tuple[int, ...]
    epochs: tuple[int, ...]
    warmup: float = 0.1
    weight_decay: float = 0.01

    def settings(self) -> list[Settings]:
        return [
            Settings(lr, batch, epochs, self.warmup, self.weight_decay)
            for lr in self.lr
            for batch in self.batch
            for epochs in self.epochs
        ]


def suited(hidden: int, num_examples: int, chosen: Grid) -> Grid:
    """`chosen`, and what it leaves open by the model's width and the number of examples.

    Narrow models learn at higher rates (Turc et al. 2019), and a few hundred examples take up to 20 passes (Mosbach et
    al. 2021).
    """
    rate = 5e-5 if hidden >= 768 else 1e-4 if hidden >= 512 else 3e-4
    batch = chosen.batch or (32,)
    passes = -(-LEAST_STEPS * batch[0] // num_examples)
    return replace(chosen, lr=chosen.lr or (rate,), batch=batch, epochs=chosen.epochs or (min(max(passes, 3), 20),))


LEAST_STEPS = 300

GRIDS = {
    # Devlin et al. 2018, appendix A.3.
    "devlin": Grid((5e-5, 3e-5, 2e-5), (16, 32), (2, 3, 4)),
    # Liu et al. 2019 (RoBERTa), appendix C.
    "roberta": Grid((1e-5, 2e-5, 3e-5), (16, 32), (10,), warmup=0.06, weight_decay=0.1),
    # Turc et al. 2019, the small BERTs.
    "turc": Grid((3e-4, 1e-4, 5e-5, 3e-5), (8, 16, 32, 64, 128), (4,)),
    # Yang et al. 2021 (share, then untie), section 4; the batch is not in the paper.
    "swe": Grid((1e-5, 1.5e-5, 2e-5, 3e-5, 4e-5, 5e-5, 7.5e-5, 1e-4, 1.2e-4), (32,), (3,)),
}
