"""What an older start of a run finished after a newer one began does not count."""

import json
from pathlib import Path

import pytest

from pretrain.checkpoint import find_checkpoint, store
from pretrain.checkpoint.lineage import overtaken_by
from pretrain.lease import Lease, Start


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Start 1 wrote step 4. Start 2 went on from there and wrote step 12; then start 1 finished step 8."""
    for step, start in ((4, 1), (8, 1), (12, 2)):
        folder = tmp_path / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "index.json").write_text(json.dumps({"run": {"start": start}}))
    (tmp_path / "leases").mkdir()
    write(tmp_path, Lease(1, began_at=0), Lease(2, began_at=4))
    latest(tmp_path, 12)
    return tmp_path


def write(run: Path, *leases: Lease) -> None:
    for lease in leases:
        (run / "leases" / f"{lease.start:05d}.json").write_text(lease.text())


def latest(run: Path, step: int) -> None:
    (run / "checkpoints" / "latest").write_text(f"step-{step:08d}\n")


def valid(run: Path) -> list[int]:
    """Steps of the checkpoints that count."""
    return [int(path.name[5:]) for path in store.checkpoints_of(run / "checkpoints") if not overtaken_by(path)]


def test_what_was_finished_too_late_does_not_count(run):
    assert valid(run) == [4, 12]


def test_later_starts_from_the_newer_state_change_nothing(run):
    write(run, Lease(3, began_at=12), Lease(4))
    assert valid(run) == [4, 12]


def test_what_a_start_went_back_behind_does_not_count(run):
    write(run, Lease(3, began_at=4))
    assert valid(run) == [4]


def test_checkpoints_from_before_starts_were_numbered_count_until_then(run):
    for path in store.checkpoints_of(run / "checkpoints"):
        (path / "index.json").write_text(json.dumps({"run": {}}))
    write(run, Lease(1, began_at=12), Lease(2, began_at=12))
    assert valid(run) == [4, 8, 12]


def test_latest_that_names_it_does_not_count(run):
    latest(run, 8)
    assert find_checkpoint(run).name == "step-00000012"
    latest(run, 4)  # set back by hand
    assert find_checkpoint(run).name == "step-00000004"


def test_a_run_resumes_from_the_newer_state_and_is_told(run):
    latest(run, 8)
    lines: list[str] = []
    assert [path.name for path in store._candidates(run / "checkpoints", lines.append)] == [
        *("step-00000012", "step-00000004"),
    ]
    assert len(lines) == 1
    assert "step-00000008 is ignored: start 2 began at step 4, without it" in lines[0]


def test_it_is_not_counted_among_those_that_are_kept(run):
    store._drop_old(run / "checkpoints", 2, 0, Start(run / "leases", 2))
    assert [path.name for path in store.checkpoints_of(run / "checkpoints")] == ["step-00000004", "step-00000012"]


def test_a_newer_starts_checkpoint_is_not_removed_for_an_older_one(run, monkeypatch):
    """Though the older one had just made sure that it is the newest."""
    older, path = Start(run / "leases", 1), run / "checkpoints" / "step-00000012"
    monkeypatch.setattr(Start, "check", lambda self: None)
    older.partial(path).mkdir()
    with pytest.raises(FileExistsError, match="a newer start"):
        store._complete(path, older)
    assert json.loads((path / "index.json").read_text()) == {"run": {"start": 2}}
    assert (run / "checkpoints" / "latest").read_text() == "step-00000012\n"
