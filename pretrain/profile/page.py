"""A profile as one self-contained HTML page: bars as inline SVG, no script and no network."""

import json
from dataclasses import asdict
from html import escape
from pathlib import Path

from pretrain.profile.breakdown import Breakdown
from pretrain.profile.measurement import Measurement
from pretrain.runs.html import write_html

WIDTH, BAR, GAP, LABEL = 760, 20, 6, 240


def write_page(found: dict[str, Measurement], file: Path, title: str) -> None:
    """One section for the configurations side by side, then one for each breakdown."""
    parts = [
        "<h2>Tokens per second</h2>",
        bars({label: result.tokens_per_second for label, result in found.items()}, "{:,.0f}"),
    ]
    for label, result in found.items():
        parts.append(
            f"<h2>{escape(label)}</h2><p>{escape(result.shape)}, {result.precision}, ZeRO {result.zero_stage}, "
            f"TP {result.tensor_parallel} on {result.ranks} rank{'s' * (result.ranks > 1)}: "
            f"{result.seconds * 1e3:.1f} ms a step, "
            f"{result.useful_flops_per_second / 1e12:.3f} useful TFLOP/s, "
            f"{result.peak_bytes / 2**20:,.0f} MiB a rank at most ({result.predicted_bytes / 2**20:,.0f} predicted)</p>"
        )
        if result.breakdown is not None:
            parts += _charts(result.breakdown)
    write_html(file, title, parts)


def write_breakdown(breakdown: Breakdown, folder: Path, title: str) -> None:
    """profile.json and profile.html of some steps of a run."""
    (folder / "profile.json").write_text(json.dumps(asdict(breakdown), indent=1) + "\n", "utf-8")
    write_html(folder / "profile.html", title, _charts(breakdown))


def _charts(breakdown: Breakdown) -> list[str]:
    sections = ((heading, values) for heading, values in breakdown.sections().items() if values)
    return [f"<h3>{heading} (ms)</h3>{bars(values, '{:.2f}')}" for heading, values in sections]


def bars(values: dict[str, float], form: str) -> str:
    """A horizontal bar chart."""
    longest = max(values.values(), default=0) or 1
    rows = []
    for index, (label, value) in enumerate(values.items()):
        y = index * (BAR + GAP)
        length = (WIDTH - LABEL - 90) * value / longest
        rows.append(
            f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>'
            f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" fill="var(--mark)"/>'
            f'<text x="{LABEL + length + 6:.1f}" y="{y + 15}">{form.format(value)}</text>'
        )
    height = len(values) * (BAR + GAP)
    return f'<svg width="{WIDTH}" height="{height}" role="img">{"".join(rows)}</svg>'
