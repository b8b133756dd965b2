"""`plan --sweep nodes=... --plot FILE`."""

import pytest

from model.errors import UserError
from pretrain.cost.time.machine import load_machine
from pretrain.recipe import load_recipe
from pretrain.runs.prediction import print_sweep


def test_the_scaling_is_drawn_and_what_cannot_be_is_refused(tmp_path, capsys):
    recipe, draw = load_recipe("large", ["precision=bf16"]), tmp_path / "scaling.svg"
    print_sweep(recipe, load_machine("h100"), "nodes=1,2,3,4", 1, 8, draw)
    drawn = draw.read_text("utf-8")
    assert f"drawn: {draw}" in capsys.readouterr().out
    assert drawn.count("<!-- ") > 5 and "<!-- 16 -->" in drawn and "<!-- 24 -->" not in drawn
    with pytest.raises(UserError, match="--plot draws numbers of nodes"):
        print_sweep(recipe, load_machine("h100"), "layout", 1, 8, draw)
    for wrong in (tmp_path / "scaling.txt", tmp_path / "none" / "scaling.png"):
        with pytest.raises(UserError, match="cannot be written; name a file in a folder that exists"):
            print_sweep(recipe, load_machine("h100"), "nodes=1", 1, 8, wrong)
