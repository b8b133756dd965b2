"""What a rank prints, in its file as well."""

import sys

import pytest

from model.errors import UserError
from pretrain.runs.rank_log import logged


def test_a_rank_has_a_file_of_what_it_prints_over_all_starts(tmp_path, capsys):
    before = sys.stdout, sys.stderr
    with logged(tmp_path / "logs", 3, 1):
        print("opened the corpus")
        print("a warning", file=sys.stderr)
    with pytest.raises(UserError), logged(tmp_path / "logs", 3, 2):
        raise UserError("no room")
    with pytest.raises(ZeroDivisionError), logged(tmp_path / "logs", 3, 3):
        1 / 0  # noqa: B018
    assert (sys.stdout, sys.stderr) == before
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("opened the corpus\n", "a warning\n"), "the console has the same"
    lines = (tmp_path / "logs" / "rank-00003.log").read_text("utf-8").splitlines()
    assert lines[0].startswith("--- start 1 on ") and lines[1:3] == ["opened the corpus", "a warning"]
    assert lines[3].startswith("--- start 2") and lines[4] == "ended by no room"
    assert "Traceback (most recent call last):" in lines[6:] and "ZeroDivisionError: division by zero" in lines


def test_a_terminal_is_redrawn_and_stays_out_of_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with logged(tmp_path, 0, 1):
        print("10 of 40 steps")
        print("a warning", file=sys.stderr)
    text = (tmp_path / "rank-00000.log").read_text("utf-8")
    assert "a warning" in text and "10 of 40" not in text
    capsys.readouterr()


def test_a_disk_that_refuses_the_file_stops_nothing(tmp_path, capsys):
    (tmp_path / "logs").write_text("a file where the folder goes")
    with logged(tmp_path / "logs", 0, 1):
        print("on")
    assert capsys.readouterr().out == "on\n"
