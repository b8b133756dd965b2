"""The list of shards that a run has checked before; the checks themselves: test_resume_refusals.py, tests/whole."""

import pytest

from pretrain.runs.folder import RunFolder
from pretrain.training.preflight import _checked_before


@pytest.mark.parametrize("text", ['{"/corpus/train-0.bin": "12', "[1, 2]", "", "[" * 5000])
def test_a_damaged_list_of_checked_shards_means_that_all_are_checked_again(tmp_path, text):
    folder = RunFolder(tmp_path)
    assert _checked_before(folder) == {}
    folder.checked_shards.write_text('{"/corpus/train-0.bin": "12 34 abc"}')
    assert _checked_before(folder) == {"/corpus/train-0.bin": "12 34 abc"}
    folder.checked_shards.write_text(text)
    assert _checked_before(folder) == {}
