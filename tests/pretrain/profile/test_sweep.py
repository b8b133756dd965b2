"""What a sweep says when nothing can be measured."""

from pathlib import Path
from unittest.mock import patch

import pytest

from model.errors import UserError
from pretrain.profile.verb import Profile


def profile(corpus: Path, out: Path) -> Profile:
    return Profile("mini", (f"data.corpus={corpus}",), stage=0, nproc=1, steps=1, out=out)


def test_a_missing_corpus_is_named_at_once(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        profile(tmp_path / "nowhere", tmp_path).sweep(["micro_batch"])


def test_a_sweep_that_leaves_everything_out_is_an_error(tmp_path, capsys):
    with (
        patch.object(Profile, "_vocab_size", lambda self: 64),
        patch.object(Profile, "run", side_effect=UserError("does not fit")),
        pytest.raises(UserError, match="--sweep zero: no combination ran"),
    ):
        profile(tmp_path, tmp_path).sweep(["zero"])
    assert capsys.readouterr().err.count("left out: does not fit") == 4
