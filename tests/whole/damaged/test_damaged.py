"""Whatever users bring, a verb takes it or says in one line why not: inputs of every kind, damaged at random.

30 cases of a kind in this process and 5 in processes of their own; `--damaged 300` tries so many, and prints a count.
"""

from pathlib import Path

import pytest

from tests.support.damage import Kind, damaged, fault, run_alone, run_here
from tests.whole.damaged import corpora, recipes, runs

KINDS = (*recipes.KINDS, *runs.KINDS, *corpora.KINDS)
ALONE = 5


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """The intact inputs of a kind, made once."""
    made: dict = {}

    def of(kind: Kind) -> Path:
        if kind.make not in made:
            made[kind.make] = tmp_path_factory.mktemp("intact")
            kind.make(made[kind.make])
        return made[kind.make]

    return of


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damaged_inputs_are_taken_or_refused_in_one_line(kind, intact, tmp_path, pytestconfig):
    number = pytestconfig.getoption("--damaged")
    outcomes = [run_here(damaged(kind, case, intact(kind), tmp_path / str(case))) for case in range(number)]
    found = [problem for problem in map(fault, outcomes) if problem]
    refused = sum(outcome.code == 2 for outcome in outcomes)
    print(f"{kind.name}: {number} cases, {refused} refused, {len(found)} faults")
    assert not found, f"{len(found)} of {number} cases:\n" + "\n".join(found)


@pytest.mark.parametrize("kind", [*recipes.KINDS, *runs.KINDS], ids=lambda kind: kind.name)
def test_so_does_the_command(kind, intact, tmp_path):
    """Cases that the test above does not have."""
    cases = [damaged(kind, -1 - case, intact(kind), tmp_path / str(case)) for case in range(ALONE)]
    outcomes = [run_alone(case, tmp_path / f"errors-{index}") for index, case in enumerate(cases)]
    assert not [problem for problem in map(fault, outcomes) if problem]


def test_intact_inputs_are_taken(intact, tmp_path):
    """Else a refusal would say nothing of the damage."""
    text, vocabulary, manifest = corpora.KINDS
    given = [(text, name) for name in corpora.FILES] + [(vocabulary, name) for name in corpora.VOCABULARIES]
    for index, (kind, name) in enumerate([*((kind, None) for kind in (*runs.KINDS, manifest)), *given]):

        def leave(draw, folder, name=name):
            if name:
                corpora.give(folder, folder / name)
            return "none"

        untouched = Kind(kind.name, kind.make, leave, kind.arguments)
        outcome = run_here(damaged(untouched, 0, intact(kind), tmp_path / str(index)))
        assert outcome.code == 0, outcome.errors
