"""What is quick has to stay quick: torch takes seconds to import, and what only reads or chooses does without it."""

import subprocess
import sys

import pytest

PLAN = "from pretrain.__main__ import main; assert main(['plan', 'mini']) == 0"
MISTAKE = "from pretrain.__main__ import main; assert main(['plan', 'mini', '--set', 'steps=-1']) == 2"


@pytest.mark.parametrize(
    "code",
    ["import growth.operators", "import pretrain.recipe", PLAN, MISTAKE],
    ids=["shapes", "recipes", "plan", "a mistake"],
)
def test_torch_is_not_imported(code):
    code += "; import sys; sys.exit('torch is' if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
