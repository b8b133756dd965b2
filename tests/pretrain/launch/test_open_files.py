"""The limit of open files: raised as far as it goes, and too few are said before ranks start."""

import resource
import subprocess
import sys

import pytest

from model.errors import UserError
from pretrain.launch import open_files

RAISE = """
import resource
from pretrain.launch import open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1000))
open_files.raise_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_limit_is_raised_to_the_hard_one():
    assert subprocess.check_output([sys.executable, "-c", RAISE], text=True).split() == ["1000", "1000"]


@pytest.mark.parametrize(("hard", "fits"), [(1024, 384), (4096, 1920), (resource.RLIM_INFINITY, 100_000)])
def test_ranks_whose_connections_do_not_fit_are_refused(monkeypatch, hard, fits):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, hard))
    open_files.check_limit(fits)
    if hard != resource.RLIM_INFINITY:
        with pytest.raises(UserError, match=rf"{fits + 1:,} ranks take .* a process may have {hard:,} \(ulimit -Hn\)"):
            open_files.check_limit(fits + 1)
