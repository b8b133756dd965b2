"""The comparison as one HTML page."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from pretrain.compare.judge import Line
from pretrain.compare.table import HEADINGS, cells
from pretrain.runs.html import write_html


def write_page(lines: Sequence[Line], out: Path, note: str | None = None) -> None:
    """Writes compare.html, with compare.png and scaling.png in it. `note`: what readers have to know of the runs."""
    head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(line))}</tr>" for line in lines)
    growth = "".join(
        f"<tr><td>{escape(run.path.name)}</td><td>{escape(event.operator)}</td><td>{event.step}</td>"
        f"<td>{event.loss_before:.4f}</td><td>{event.loss_after:.4f}</td></tr>"
        for line in lines
        for run in line.contender.runs
        for event in run.growth
    )
    picture, scaling = (_encoded(out / f"{name}.png") for name in ("compare", "scaling"))
    page = f"""<p>Speedup: cost of the from-scratch run that ends at the same validation loss, over the method's cost.
From-scratch runs at several budgets, each with a full decay, are interpolated. Brackets: the range over all pairings of
seeds. &gt;= and &lt;= mark methods outside all budgets; nothing is extrapolated. Device speedup counts processor
seconds on a CPU, so other users of the machine do not distort it. "Over small too": against the better of the full
and the small model from scratch; a model that never reached the method's loss is ignored.</p>
<p>The verdict compares medians: the gap in loss at equal cost must exceed the seed range of both sides, upwards
(significantly worse) or downwards (significant). "Paired by seed" is the FLOP speedup over the from-scratch runs of the
same seed, which saw the same data. It is significant if at least three seeds all gain.</p>
{f"<p>Note: {escape(note)}.</p>" if note else ""}
<div class="scroll"><table><tr>{head}</tr>{body}</table></div>
<img alt="loss against cost" src="data:image/png;base64,{picture}">
<h2>Speedup against budget</h2>
<p>The envelope is the best of all sizes that are trained from scratch as the baseline is, at each budget: what one
could train instead. Hollow marks are such sizes, full ones methods; bars are the range of seeds, arrows bounds. Above
the line a method is ahead of every size.</p>
<img alt="speedup over the envelope against FLOPs" src="data:image/png;base64,{scaling}">
<h2>Changes of shape</h2>
<table><tr><th>run</th><th>operator</th><th>step</th><th>loss before</th><th>after</th></tr>{growth}</table>
"""
    write_html(out / "compare.html", "Does it pay?", [page.rstrip()])


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
