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
The shipped machines as they are, which nobody has calibrated; fp16 counts as bf16. NVIDIA bins the lengths of its long
rows, so that its 512 tokens are fewer. Micro-batches are those of the published settings.
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
