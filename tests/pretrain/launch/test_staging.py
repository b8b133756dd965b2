"""Which environment may be copied to the nodes, and where. That it is: tests/whole/slurm/test_launcher.py."""

import sys
from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.launch import staging
from pretrain.launch.slurm import Job


@pytest.fixture
def job(monkeypatch) -> None:
    job = Job(id=7, num_nodes=2, nodelist="node[1-2]", restarts=0)
    monkeypatch.setattr(Job, "from_environment", classmethod(lambda cls: job))


def test_it_is_for_jobs(monkeypatch):
    monkeypatch.setattr(Job, "from_environment", classmethod(lambda cls: None))
    assert staging.staging_folder("") is None
    with pytest.raises(UserError, match="is for SLURM jobs"):
        staging.staging_folder("/tmp")


def test_a_virtual_or_conda_environment_is_copied(job, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sys, "prefix", "/home/me/.venv")
    assert staging.staging_folder("/tmp") == Path("/tmp")
    with pytest.raises(UserError, match="scratch is not an absolute path"):
        staging.staging_folder("scratch")
    monkeypatch.setattr(sys, "prefix", "/usr")
    with pytest.raises(UserError, match="in none"):
        staging.staging_folder("/tmp")
    (tmp_path / "conda-meta").mkdir()
    for name in ("prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, str(tmp_path))
    assert staging.staging_folder("/tmp") == Path("/tmp")
