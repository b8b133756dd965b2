"""Folders of compiled code: nobody else may write into them."""

import os
import stat

import pytest

from pretrain.launch import environment
from pretrain.launch.environment import private_folder


def test_a_folder_of_ours_is_used_again(tmp_path):
    made = private_folder(tmp_path / "caches")
    assert made == tmp_path / "caches" == private_folder(tmp_path / "caches")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def open_to_all(path):
    path.mkdir()
    path.chmod(0o777)


def a_link(path):
    elsewhere = path.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("trap", [open_to_all, a_link, lambda path: path.write_text("")])
def test_what_somebody_else_may_have_put_there_is_not(tmp_path, monkeypatch, trap):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    trap(tmp_path / "caches")
    made = private_folder(tmp_path / "caches")
    assert made != tmp_path / "caches"
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_a_folder_of_another_user_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "caches").mkdir(mode=0o700)
    owner = (tmp_path / "caches").stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert private_folder(tmp_path / "caches") != tmp_path / "caches"


@pytest.mark.parametrize("num_gpus", [0, 8])
def test_with_gpus_gloo_connects_a_rank_to_few_others(monkeypatch, num_gpus):
    """What that does: tests/pretrain/engine/test_connections.py."""
    monkeypatch.setattr(environment, "count_gpus", lambda: num_gpus)
    assert environment._defaults().get("TORCH_GLOO_LAZY_INIT") == ("1" if num_gpus else None)
