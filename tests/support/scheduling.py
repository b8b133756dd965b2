"""Which worker of `pytest --numprocesses` runs which tests."""

from xdist.scheduler import LoadScopeScheduling

LONGEST_FIRST = ("whole", "docs", "repository", "pretrain")
"""Folders of tests, in the order in which workers take them; then all others. So none is left alone at the end."""


class WholeFiles(LoadScopeScheduling):
    """A worker takes whole files, for what their tests set up. One takes all of tests/whole: they mostly wait, and
    there is one SLURM cluster for all of them; meanwhile the other worker computes."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "whole" if _folder(file) == "whole" else file


def place_in_order(nodeid: str) -> int:
    """Tests of a smaller one begin earlier."""
    folder = _folder(nodeid)
    return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)


def _folder(nodeid: str) -> str:
    """Of tests/, the one that a test is in."""
    return nodeid.split("/")[1]
