"""The verb `compare`: reads finished runs, judges each, and writes table, pictures, page and JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from pretrain.compare.csv_files import write_csv
from pretrain.compare.judge import Line, judge
from pretrain.compare.page import write_page
from pretrain.compare.picture import draw
from pretrain.compare.roles import ROLES, contenders
from pretrain.compare.runs import FinishedRun, check_validation, mixed_precisions
from pretrain.compare.scaling import draw_scaling
from pretrain.compare.table import print_table


def compare(paths: Sequence[Path], out: Path, scale: str, baseline: Sequence[str] = ()) -> list[Line]:
    """Reads finished runs and writes page, pictures (PNG, SVG, PDF), JSON and CSV into `out`; prints the table.

    `baseline`: the recipes to measure against; left out, the target trained from scratch in one stage.
    """
    runs = [FinishedRun.read(path) for path in paths]
    check_validation(runs)
    found = contenders(runs, baseline)
    found.sort(key=lambda contender: (ROLES.index(contender.role), contender.name))
    lines = [judge(contender, found) for contender in found]
    out.mkdir(parents=True, exist_ok=True)
    values = [line.to_json(scale) for line in lines if line.speedups]
    (out / "compare.json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    write_csv(lines, out)
    draw(found, out)
    draw_scaling(lines, out)
    note = mixed_precisions(runs)
    single = [contender.name for contender in found if len(contender.runs) == 1]
    write_page(lines, out, note)
    print_table(lines)
    if note:
        print(note)
    if single:
        print(f"one seed alone is never significant ({', '.join(single)}); train others, three are usual")
    print(f"{out / 'compare.html'}, compare.json, compare.csv, runs.csv; compare and scaling as .png, .svg and .pdf")
    return lines
