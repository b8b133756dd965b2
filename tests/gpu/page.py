"""The page of a session: python -m tests.gpu.page FOLDER > docs/results/gpu.md"""

import json
import sys
from pathlib import Path
from typing import Any


def page(folder: Path) -> str:
    """Every part as a table, in the order in which they ran; and what did not come to its end."""
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
    lines = ["# On a GPU, measured", ""]
    for text in ("gpu.txt", "pytest.txt"):
        if (folder / text).is_file():
            last = (folder / text).read_text("utf-8").strip().splitlines()[-1:]
            lines += [*last, ""]
    for file in files:
        report = json.loads(file.read_text("utf-8"))
        lines += [f"## {report['part']}", "", *table(report["rows"])]
        if report["ended"] != "complete":
            lines += [f"Not complete after {report['seconds']:.0f} s: {report['ended']}", ""]
    return "\n".join(lines).rstrip() + "\n"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of different columns, in Markdown."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[shown(row.get(column, "")) for column in columns] for row in rows]
    body = [columns, ["---"] * len(columns), *cells]
    return [*("| " + " | ".join(row) + " |" for row in body), ""] if rows else []


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/").replace("\n", " ")


if __name__ == "__main__":
    print(page(Path(sys.argv[1])), end="")
