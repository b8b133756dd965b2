"""Half a dozen kills at random moments; `python -m tests.whole.faults.campaign --kills 200` is the long way."""

import subprocess
import sys

import pytest

from tests.support.launching import HOME


@pytest.mark.timeout(600)
def test_half_a_dozen_kills_lose_nothing():
    """In a separate process, which forks: this one has threads."""
    command = [sys.executable, "-m", "tests.whole.faults.campaign", "--kills", "6", "--seed", "0"]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("6 kills, seed 0")
