"""How `prepare` tells what it has read."""

import pytest

from pretrain.data.text.console import print_counts, shown_progress, size
from pretrain.data.text.options import Progress


def test_a_small_text_is_not_zero():
    assert [size(megabytes) for megabytes in (0.0, 0.34, 9.9, 10.2, 12345.6)] == ["0.0", "0.3", "9.9", "10", "12,346"]


def test_a_log_says_how_many_tasks_are_done(capsys):
    with shown_progress() as show:
        show(Progress("reading", None, tasks=(3, 1200)))
    assert capsys.readouterr().err == "reading: 3 of 1,200 tasks, 0:00\n"


@pytest.mark.parametrize(
    ("num_train", "num_valid", "share"),
    [(341_040, 548, 0.06), (990_000, 9_900, 0.03), (990_000, 10_000, None), (90_000, 900, 0.1), (95_000, 5_000, None)],
)
def test_too_little_held_out_text_is_said_with_a_better_share(tmp_path, capsys, num_train, num_valid, share):
    counts = dict(train=num_train, valid=num_valid)
    splits = {name: dict(num_tokens=count, num_documents=9) for name, count in counts.items()}
    print_counts(tmp_path, {"splits": splits, "tokenizer": {"vocab_size": 5}, "source": {}, "left_out_or_repaired": {}})
    said = capsys.readouterr().err
    if share is None:
        assert said == ""
    else:
        assert f"{num_valid:,} tokens to valid are few to measure a loss on" in said
        assert f"--valid-share {share}," in said
