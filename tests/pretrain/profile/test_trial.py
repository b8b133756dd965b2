"""How fast a machine is, within a job of several nodes: of one, or of all."""

from types import SimpleNamespace

import pytest

from pretrain.launch.slurm import Job
from pretrain.profile import verb
from pretrain.profile.trial import trial_flops_per_second


@pytest.mark.parametrize(("here", "started"), [(True, "here"), (False, "job")])
def test_a_trial_is_of_this_node_or_of_the_job(corpus, monkeypatch, here, started):
    job, found = Job(1, 4, "node[1-4]", 0), []
    monkeypatch.setattr(verb.Job, "from_environment", lambda: job)
    monkeypatch.setattr(verb, "expected_ranks", lambda nproc: 4 * nproc)
    monkeypatch.setattr(verb, "check_memory", lambda stage, ranks_here, limit: found.append(ranks_here))
    monkeypatch.setattr(verb, "run_here", lambda command, nproc, **_: found.append(("here", nproc)) or 0)
    monkeypatch.setattr(verb, "run_job", lambda job, command, nproc, tolerance: found.append(("job", nproc)) or 0)
    monkeypatch.setattr(verb.Measurement, "read", lambda file: SimpleNamespace(useful_flops_per_second=7.0))
    overrides = (f"data.corpus={corpus}", "precision=fp32", "batch.global=64", "batch.micro=8")
    assert trial_flops_per_second("mini", overrides, 2, here) == 7.0
    assert found == [2, (started, 2)]
