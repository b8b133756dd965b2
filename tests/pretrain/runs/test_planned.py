"""One plan and a sweep refuse the same, in the same words."""

import pytest
import yaml

from model.errors import UserError
from pretrain.cli.plan import plan

SWEEPS = {"one plan": {}, "nodes": {"sweep": "nodes=1,2"}, "layout": {"sweep": "layout"}}
FAULTS = {
    "teacher": ({"align": {"teacher": "nowhere"}}, {}, "stage only: align.teacher nowhere: no stage keeps it"),
    "start": ({}, {"start": "."}, "start . is not a checkpoint"),
}


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_sweep_refuses_what_one_plan_does(tmp_path, monkeypatch, fault, sweep):
    monkeypatch.chdir(tmp_path)
    of_stage, of_run, message = FAULTS[fault]
    stages = [{"name": "only", "steps": "100%", **of_stage}]
    values = {"extends": "mini", "stages": stages, "precision": "bf16", "batch": {"global": 16}, **of_run}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values), "utf-8")
    with pytest.raises(UserError, match=message) as caught:
        plan("recipe.yaml", on="h100", nproc=1, **SWEEPS[sweep])
    assert "\n" not in str(caught.value) and "left out" not in str(caught.value)
