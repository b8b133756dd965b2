"""The table of operators in docs/performance.md is that of today's model: it cannot grow unseen."""

from pathlib import Path

import pytest

from tests.gpu.roofline import STEPS, lines_of


def numbers_of(lines: list[str]) -> dict[str, list[float]]:
    """By kind of operator; without the cells that hold no number."""
    rows = [[cell.strip().replace(",", "") for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {kind: [float(cell) for cell in cells if cell not in ("", "-")] for kind, *cells in rows}


@pytest.mark.parametrize("name", STEPS)
def test_the_page_has_the_operators_of_a_step(name):
    page, lines = Path("docs/performance.md").read_text("utf-8").splitlines(), lines_of(name)
    begin = page.index(lines[0])
    written, counted = numbers_of(page[begin : page.index("", begin)]), numbers_of(lines)
    assert written.keys() == counted.keys()
    for kind, numbers in counted.items():
        assert numbers == pytest.approx(written[kind], rel=0.02, abs=0.11), "python -m tests.gpu.roofline; and why?"
