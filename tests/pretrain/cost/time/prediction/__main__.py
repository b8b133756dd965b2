"""Measures, predicts, and writes the page."""

from pathlib import Path
from tempfile import TemporaryDirectory

import tyro

from tests.pretrain.cost.time.prediction.here import cells, lines_of
from tests.pretrain.cost.time.prediction.published import mlperf_lines, published_lines
from tests.support.home import HOME

PAGE = HOME / "docs" / "results" / "prediction.md"
SECTIONS = "# Predicted steps against measured ones", "## This machine", "## MLPerf", "## Published throughputs"

INTRODUCTION = """
    python -m tests.pretrain.cost.time.prediction

writes this page: what `plan --on MACHINE` predicts ([how](../performance.md#how-long-and-what-it-costs)), against what
was measured here or published. Errors are those of the step's time, as they are: above 0 predicted too long.
"""
MLPERF = """
BERT-large by NVIDIA in MLPerf Training (result logs). A shipped machine, whose numbers are those of data sheets and
assumptions, is scaled until one row of a chip is right, arithmetic and memory alike; it then predicts the other row. A
sample is a sequence, taken to have 256 tokens, two to a row of 512. NVIDIA trains in FP8 on H100, with CUDA graphs and
an optimizer of its own, none of which the model knows.
"""
PUBLISHED = """
The shipped machines as they are, which nobody has calibrated; fp16 counts as bf16.

- BERT-large in fp16 with LAMB: the [README][nvidia] of NVIDIA DeepLearningExamples, "Training performance: NVIDIA DGX
  A100 (8x A100 80GB)", container pytorch:21.11-py3, with fused kernels. Rows of 128 tokens, padding included: 4,591 a
  second on 8 GPUs, which accumulate 32 micro-batches of 256, and 138,294 on 256 GPUs, which accumulate none. Its rows
  of 512 tokens are left out: they are binned by length (`phase2_bin_size=64`), and the lengths are not published.
- ModernBERT-base in bf16: 194 hours on 8 H100 ([Warner et al. 2024][paper], page 16) for the 1.719e12 tokens of its
  [recipe][modernbert], in packed rows of 1,024, 4,608 of them a step and 96 a micro-batch, with 30% of the tokens
  masked, torch.compile, and FlashAttention 2.6.3 and 3. The hours include validation, checkpoints and the smaller steps
  of the first 3% of the tokens. The lengths of its documents are not published: attention over whole rows is predicted.

[nvidia]: https://github.com/NVIDIA/DeepLearningExamples/blob/729963d/PyTorch/LanguageModeling/BERT/README.md
[paper]: https://arxiv.org/abs/2412.13663
[modernbert]: https://github.com/AnswerDotAI/ModernBERT/blob/0e9dbe6/yamls/modernbert/modernbert-base-pretrain.yaml
"""


def main(rounds: int = 2, steps: int = 4, skip_here: bool = False, out: Path = PAGE) -> None:
    """Writes the page.

    Args:
        rounds: Rounds over all cells of this machine.
        steps: Steps to time in each.
        skip_here: Leave this machine out, which takes a second instead of ten minutes.
        out: The page.
    """
    here = ["Not measured yet."]
    if not skip_here:
        with TemporaryDirectory(prefix="espalier-") as folder:
            here = lines_of(*cells(Path(folder), rounds, steps))
    title, first, second, third = SECTIONS
    page = [title, INTRODUCTION, first, "", *here, "", second, MLPERF, *mlperf_lines(), "", third, PUBLISHED]
    out.write_text("\n".join([*page, *published_lines()]) + "\n", "utf-8")
    print(out.read_text("utf-8"))


if __name__ == "__main__":
    tyro.cli(main)
