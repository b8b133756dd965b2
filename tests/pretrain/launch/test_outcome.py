"""How the code of the ranks reaches the launcher, and what torchrun's process and a rank say at their end."""

import signal
import subprocess
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException

from pretrain.launch import agent, leash
from pretrain.launch.outcome import CODE_FILE, ExitCode, agreed_code, is_known


def test_a_rank_killed_as_it_leaves_its_code_has_left_none(monkeypatch):
    def run(variables: dict[str, str]) -> int:
        Path(variables[CODE_FILE]).touch()
        monkeypatch.setenv(CODE_FILE, variables[CODE_FILE])
        assert not is_known()
        return 137

    assert agreed_code(run) == 137


def test_torchruns_process_ends_quietly_on_ctrl_c():
    assert agent.report(SignalException("Process 1 got signal: 2", signal.SIGINT)) == ExitCode.INTERRUPTED


def test_a_rank_ends_quietly_on_ctrl_c(tmp_path, monkeypatch):
    (tmp_path / "interrupted.py").write_text("raise KeyboardInterrupt")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.delenv(leash.PARENT, raising=False)
    rank = subprocess.run([sys.executable, "-m", "pretrain.launch.rank", "interrupted"], capture_output=True)
    assert (rank.returncode, rank.stderr) == (ExitCode.INTERRUPTED, b"")
