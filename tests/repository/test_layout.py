"""The tests are laid out like the code, and share helpers through tests/support alone."""

import re

import pytest

from tests.support.home import HOME

TESTS = HOME / "tests"


@pytest.mark.parametrize("package", ["model", "growth", "pretrain", "ds_configs"])
def test_every_folder_of_tests_has_the_folder_that_it_tests(package):
    folders = {file.parent.relative_to(TESTS) for file in (TESTS / package).rglob("test_*.py")}
    assert folders
    assert [str(folder) for folder in sorted(folders) if not (HOME / folder).is_dir()] == []


def test_no_test_module_is_imported():
    """What two of them need belongs in tests/support, fixtures in a conftest.py."""
    importing = re.compile(r"^\s*(?:from|import) tests\.(?:\w+\.)*test_\w+|^\s*from tests[\w.]* import .*\btest_", re.M)
    files = [file for file in TESTS.rglob("*.py") if importing.search(file.read_text(encoding="utf-8"))]
    assert [str(file.relative_to(HOME)) for file in files] == []


def test_no_two_conftests_are_the_same():
    texts = [file.read_text(encoding="utf-8") for file in TESTS.rglob("conftest.py")]
    assert len(set(texts)) == len(texts)


RAN: list[str] = []
"""Tests of this file, by this process."""


@pytest.fixture(autouse=True)
def _note(request):
    RAN.append(request.node.name)


def test_one_worker_runs_a_whole_file(request):
    """Else what its tests set up would be made by each worker again."""
    asked_for = [item.name for item in request.session.items if item.path == request.path]
    assert asked_for == RAN
