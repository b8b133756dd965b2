"""The rows of a step: read when it begins or, for a GPU, by another process ahead of it.

Between the backward pass and the update, while the device still computes, a step takes what the process has read for
the next one, and begins to sum what all ranks must know of it. On a CPU both need the same cores.
"""

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from model.batch import Batch
from model.parallel.layout import data_parallel_group
from model.variants.parts import arrange_for
from pretrain.data import Corpus
from pretrain.data.ahead import ReadingProcess, RowsAhead, Share, StageRows
from pretrain.data.batches import TrainingData
from pretrain.data.index import DataPosition
from pretrain.engine.distributed import host_group
from pretrain.recipe import Recipe, ResolvedStage
from pretrain.training.place import data_parallel_rank


@dataclass(frozen=True)
class StepRows:
    """This rank's micro-batches of a global batch, and what all ranks know of it."""

    batches: list[Batch]
    mask_rate: float
    start: DataPosition
    position: DataPosition
    """Where the next step's rows start."""
    counts: Tensor  # [3] int64 on the CPU: this rank's, the sum once `summed` is done
    summed: dist.Work | None

    def totals(self) -> tuple[int, int, int]:
        """Masked tokens, sentence pairs and tokens of the global batch."""
        if self.summed is not None:
            self.summed.wait()
        num_masked, num_sentences, num_tokens = self.counts.tolist()
        return num_masked, num_sentences, num_tokens


class Reader:
    """Reads a stage's rows, step by step."""

    def __init__(
        self,
        corpus: Corpus,
        recipe: Recipe,
        stage: ResolvedStage,
        start: DataPosition,
        process: ReadingProcess | None = None,
    ) -> None:
        """`process`: reads them ahead; None: they are read here. Collective."""
        data = recipe.data
        self.rows = StageRows(recipe.seed, stage.sequence, data.masking, data.sampling, stage.objective)
        self.corpus, self.process = corpus, process
        self.data = self._open(start)
        self.stage, self.arrange = stage, arrange_for(stage.config)
        self.group = host_group(data_parallel_group())
        self.ahead: StepRows | None = None

    @property
    def position(self) -> DataPosition:
        """Where the rows start that have not been read yet."""
        return self.data.position

    def read(self, now: float) -> StepRows:
        """The rows of the step at tick `now`, from ahead if they are there. Starts a collective that `totals` waits
        for."""
        rows, self.ahead = self.ahead, None
        if rows is not None and rows.mask_rate != self.stage.mask_rate_at(now):  # the step before was skipped
            self.data, rows = self._open(rows.start), None
        return rows or self._read(now)

    def read_ahead(self, now: float) -> None:
        """Those of a later step. All ranks have to call it in the same steps."""
        self.ahead = self._read(now)

    def _open(self, start: DataPosition) -> TrainingData | RowsAhead:
        if self.process is None:
            return self.rows.open(self.corpus, start)
        return RowsAhead(self.process, self.rows, start)

    def _read(self, now: float) -> StepRows:
        start, share = self.data.position, self._share(now)
        batches = [self._as_asked(batch) for batch in self.data.next(*share)]
        if isinstance(self.data, RowsAhead):
            self.data.ask(self._share(now + 1))
        counts = count(batches)
        summed = None
        if dist.get_world_size(self.group) > 1:
            summed = dist.all_reduce(counts, group=self.group, async_op=True)
        return StepRows(batches, self.stage.mask_rate_at(now), start, self.data.position, counts, summed)

    def _share(self, now: float) -> Share:
        stage = self.stage
        rank, mask_rate = data_parallel_rank(stage), stage.mask_rate_at(now)
        return Share(stage.global_batch, stage.micro_batch, rank, stage.data_parallel, mask_rate)

    def _as_asked(self, batch: Batch) -> Batch:
        """In the form that the model reads, and with no pair of sentences where the stage does without their objective.

        None at all would leave the head without a gradient, for which DeepSpeed may take the last one that came; no
        rows give zeros.
        """
        if not self.stage.sentence_objective and batch.sentence_positions is not None:
            assert batch.sentence_labels is not None
            batch = replace(
                batch, sentence_positions=batch.sentence_positions[:0], sentence_labels=batch.sentence_labels[:0]
            )
        return self.arrange(batch)


def count(batches: list[Batch]) -> Tensor:
    """[3] this rank's masked tokens, sentence pairs and tokens."""
    return torch.tensor(
        [
            sum(len(batch.masked_ids) for batch in batches),
            sum(0 if batch.sentence_labels is None else len(batch.sentence_labels) for batch in batches),
            sum(batch.num_tokens for batch in batches),
        ]
    )
