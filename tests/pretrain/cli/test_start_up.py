"""What is quick has to stay quick: torch takes seconds to import, and what only reads or chooses does without it."""

import subprocess
import sys

import pytest

from tests.support.tiny import write_recipe

PLAN = "from pretrain.__main__ import main; assert main(['plan', 'mini']) == 0"
TIME = "from pretrain.__main__ import main; assert main(['plan', 'base', '--on', 'h100', '--nodes', '2']) == 0"
DOCTOR = "import os; os.environ['CUDA_VISIBLE_DEVICES'] = ''; from pretrain.__main__ import main; main(['doctor'])"
MISTAKE = "from pretrain.__main__ import main; assert main(['plan', 'mini', '--set', 'steps=-1']) == 2"


@pytest.mark.parametrize(
    "code",
    ["import growth.operators", "import pretrain.recipe", PLAN, TIME, MISTAKE, DOCTOR],
    ids=["shapes", "recipes", "plan", "plan with a machine", "a mistake", "the doctor"],
)
def test_torch_is_not_imported(code):
    run_without_torch(code)


def test_nor_by_the_check_before_a_run(corpus, tmp_path):
    recipe = write_recipe(tmp_path / "tiny.yaml", corpus)
    words = ["train", str(recipe), "--runs", str(tmp_path / "runs"), "--dry-run"]
    printed = run_without_torch(f"from pretrain.__main__ import main; assert main({words}) == 0")
    assert printed.startswith(f"{recipe} would start on ") and printed.count("\n") == 1


def run_without_torch(code: str) -> str:
    code += "; import sys; sys.exit('torch is' if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
