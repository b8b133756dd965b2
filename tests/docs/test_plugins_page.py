"""docs/plugins.md: the files of the other pages, named in a recipe, work from outside the package."""

import os
import subprocess
import sys

from tests.support.home import HOME
from tests.support.page_code import blocks

PAGE = "plugins.md"
FILES = {
    "drop_layers.py": ("adding-an-operator.md", 0),
    "plateau.py": ("adding-a-stage-rule.md", 0),
    "radam.py": ("adding-an-optimizer.md", 0),
    "loss_spikes.py": ("adding-a-hook.md", 0),
    "layer_scale/__init__.py": ("adding-a-variant.md", 0),
    "layer_scale/layers.py": ("adding-a-variant.md", 1),
}
PLAN = """
from pretrain.__main__ import main
from model.registry import added
from pretrain.training.events import Hook

assert main(["plan", "mine.yaml"]) == 0
print(*(hook().name for hook in added(Hook)))
"""


def python_blocks(page: str) -> list[str]:
    return [block.text for block in blocks(page) if block.language == "python"]


def test_the_files_of_the_other_pages_work_as_plugins(tmp_path):
    (recipe,) = (block.text for block in blocks(PAGE) if block.language == "yaml")
    (tmp_path / "mine.yaml").write_text(recipe, "utf-8")
    (tmp_path / "layer_scale").mkdir()
    for name, (page, number) in FILES.items():
        text = python_blocks(page)[number]
        text = text.replace(
            '"model.variants.layer_scale.layers:LayerScaleParts"', 'f"{__name__}.layers:LayerScaleParts"'
        )
        (tmp_path / name).write_text(text, "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(HOME), "COLUMNS": "200"}
    command = [sys.executable, "-c", PLAN]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "layer_scale True" in done.stdout
    assert "deep: at most 1,000 steps, until the loss reaches no new minimum (checked every 20 steps" in done.stdout
    assert "drop_layers" in done.stdout
    assert done.stdout.splitlines()[-1] == "loss_spikes"
