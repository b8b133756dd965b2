"""What has been measured is printed and written, whatever happens to the rows after it."""

import json

import pytest

from model.errors import UserError
from pretrain.profile import table
from pretrain.profile.against import Row


def refuse(*_):
    raise UserError("2 processes need a GPU each")


@pytest.mark.parametrize("gpus", [1, 2])
def test_the_rows_of_one_process_survive(monkeypatch, tmp_path, capsys, gpus):
    """One GPU: nothing else is asked of it."""
    monkeypatch.setattr(table, "rows_against_hugging_face", lambda *_: [Row("full rows", 1.8, 2.0, 1.9, 2.1)])
    monkeypatch.setattr(table, "rows_on_two_processes", refuse)
    monkeypatch.setattr(table.torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(table, "count_gpus", lambda: gpus)
    if gpus == 1:
        table.profile_against_hugging_face(1, tmp_path, tmp_path / "rows.json")
    else:
        with pytest.raises(UserError, match="need a GPU each"):
            table.profile_against_hugging_face(1, tmp_path, tmp_path / "rows.json")
    assert [row["row"] for row in json.loads((tmp_path / "rows.json").read_text())] == ["full rows"]
    assert "full rows" in capsys.readouterr().out
