"""The code that a page shows, put where the page says, in a copy of the tree."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.home import HOME


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. One that belongs in a file names it in its first line: `# path/of/the/file.py`."""

    language: str
    text: str

    @property
    def path(self) -> str | None:
        found = re.match(r"# ([\w/.-]+\.py)\n", self.text)
        return found[1] if found else None


def blocks(page: str) -> list[Block]:
    text = (HOME / "docs" / page).read_text("utf-8")
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]


@dataclass(frozen=True)
class Copy:
    """A copy of the code with what a page adds to it."""

    path: Path
    new_files: list[str]
    changed_files: list[str]

    def run(self, *command: str) -> str:
        """What Python prints, run with the copy's code; fails where it fails."""
        environment = {**os.environ, "PYTHONPATH": str(self.path)}
        done = subprocess.run(
            [sys.executable, *command], cwd=self.path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def with_page(page: str, path: Path) -> Copy:
    """Writes the page's Python files into a copy of the tree and applies its diffs, line by line."""
    for top in ("model", "growth", "pretrain", "ds_configs"):
        shutil.copytree(HOME / top, path / top)
    new, changed = [], []
    for block in blocks(page):
        if block.language == "python" and block.path:
            file = path / block.path
            assert not file.exists(), "the page adds files"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text.partition("\n")[2], "utf-8")
            new.append(block.path)
        elif block.language == "diff":
            changed.append(_apply(block.text, path))
    return Copy(path, new, changed)


def _apply(diff: str, path: Path) -> str:
    """A diff without line numbers: `--- file`, then lines that are kept, taken out (-) and added (+)."""
    header, _, body = diff.partition("\n")
    file = path / header.removeprefix("--- ")
    lines = body.splitlines()
    before = "\n".join(line[1:] for line in lines if line[:1] in " -")
    after = "\n".join(line[1:] for line in lines if line[:1] in " +")
    text = file.read_text("utf-8")
    assert text.count(before) == 1, f"{file} has other lines:\n{before}"
    file.write_text(text.replace(before, after), "utf-8")
    return header.removeprefix("--- ")
