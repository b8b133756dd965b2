"""A profile as one self-contained HTML page: bars as inline SVG, no script and no network."""

from html import escape
from pathlib import Path

from pretrain.profile.measure import Measurement

WIDTH, BAR, GAP, LABEL = 760, 20, 6, 240

STYLE = "body{font:15px system-ui;margin:2rem auto;max-width:60rem}svg text{font:13px system-ui}h2{margin-top:2rem}"


def write_page(found: dict[str, Measurement], file: Path, title: str) -> None:
    """One section for the configurations side by side, then one for each breakdown."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        "<h2>Tokens per second</h2>",
        bars({label: result.tokens_per_second for label, result in found.items()}, "{:,.0f}"),
    ]
    for label, result in found.items():
        if result.breakdown is None:
            continue
        parts.append(
            f"<h2>{escape(label)}</h2><p>{escape(result.shape)}, {result.precision}, ZeRO {result.zero_stage}, "
            f"TP {result.tensor_parallel} on {result.ranks} ranks: {result.seconds * 1e3:.1f} ms a step, "
            f"{result.useful_flops_per_second / 1e12:.3f} useful TFLOP/s, "
            f"{result.peak_bytes / 2**20:,.0f} MiB a rank</p>"
        )
        for heading in ("phases", "modules", "collectives", "kernels"):
            values = getattr(result.breakdown, heading)
            if values:
                parts.append(f"<h3>{heading} (ms)</h3>{bars(values, '{:.2f}')}")
    page = f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>" + "\n".join(parts)
    file.write_text(page + "\n", "utf-8")


def bars(values: dict[str, float], form: str) -> str:
    """A horizontal bar chart."""
    longest = max(values.values(), default=0) or 1
    rows = []
    for index, (label, value) in enumerate(values.items()):
        y = index * (BAR + GAP)
        length = (WIDTH - LABEL - 90) * value / longest
        rows.append(
            f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>'
            f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" fill="#4a7c59"/>'
            f'<text x="{LABEL + length + 6:.1f}" y="{y + 15}">{form.format(value)}</text>'
        )
    height = len(values) * (BAR + GAP)
    return f'<svg width="{WIDTH}" height="{height}" role="img">{"".join(rows)}</svg>'
