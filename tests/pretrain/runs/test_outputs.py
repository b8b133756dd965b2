"""Where verbs write: what is in the way is one line before any work, and a folder is complete or not there."""

import json
from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.__main__ import main
from pretrain.runs.outputs import check_complete_folder, check_file, check_folder, complete_folder
from tests.support.run_on_disk import history_lines


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder as a checkpoint or a run to name, and a file that is in the way."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    lines = (json.dumps(line) for line in history_lines())
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "file").write_text("mine")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("export run --output file", "file is a file, not a folder; name another place"),
        ("export run --output file/below", "--output file/below: "),
        ("export run --output /proc/x", "--output /proc/x cannot be written: No such file or directory; name another"),
        ("report run --output run", "--output run is a folder; name a file, such as run/report.html"),
        ("report run --output file/page.html", "file is a file, not a folder; name another place"),
        ("grow run --out file/grown", "--output file/grown: "),
        ("profile tiny --output file", "--output file: "),
        ("profile tiny --json run", "--json run is a folder; name a file, such as run/rows.json"),
        ("compare run --output file/below", "--output file/below: "),
    ],
)
def test_what_is_in_the_way_is_one_line(place, capsys, arguments, message):
    before = sorted(place.rglob("*"))
    assert main(arguments.split()) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert sorted(place.rglob("*")) == before


def test_no_folder_is_to_take_the_place_of_a_disk_or_of_where_one_stands(place, monkeypatch):
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    check_complete_folder("--output", place / "new" / "er")
    with pytest.raises(UserError, match="/disk is where a disk is; name a folder in it, such as .*/disk/model"):
        check_complete_folder("--output", place / "disk")
    with pytest.raises(UserError, match=r"--output \. is the folder you are in; name a folder in it, such as model"):
        check_complete_folder("--output", Path())


@pytest.mark.parametrize(
    "arguments",
    [
        "evaluate run --rows 0",
        "fill run [MASK] --guesses 0",
        "fill run [MASK] --guesses -3",
        "profile base --steps 0",
        "compare run --seeds 0",
    ],
)
def test_counts_below_one_are_one_line(place, capsys, arguments):
    assert main(arguments.split()) == 2
    *_, option, count = arguments.split()
    assert capsys.readouterr().err == f"espalier: {option} {count} is too few; give at least 1\n"


def test_folders_on_the_way_are_made(place, capsys):
    assert main(["report", "run", "--output", "new/er/page.html"]) == 0
    assert "<title>run</title>" in (place / "new" / "er" / "page.html").read_text()


def test_checks_leave_nothing_behind(place):
    before = sorted(place.rglob("*"))
    check_file("--output", place / "new" / "page.html", "page.html")
    check_file("--output", place / "file", "page.html")
    check_folder("--output", place / "new" / "er")
    assert sorted(place.rglob("*")) == before
    assert (place / "file").read_text() == "mine"


def test_a_folder_that_may_not_be_written_to_is_said(place, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")  # root may write everywhere

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UserError, match="run cannot be written: Permission denied"):
        check_folder("--output", place / "run")


def test_a_folder_is_complete_or_as_it_was(place):
    def fail_half_way():
        with complete_folder(place / "new") as folder:
            (folder / "half").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert sorted(path.name for path in place.iterdir()) == ["file", "run"]
    with complete_folder(place / "run") as folder:
        (folder / "whole").touch()
        assert (place / "run" / "metrics.jsonl").is_file()
    assert [path.name for path in (place / "run").iterdir()] == ["whole"]
    assert sorted(path.name for path in place.iterdir()) == ["file", "run"]
