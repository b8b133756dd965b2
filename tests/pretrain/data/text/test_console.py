"""How `prepare` tells what it has read."""

from pretrain.data.text.console import shown_progress, size
from pretrain.data.text.options import Progress


def test_a_small_text_is_not_zero():
    assert [size(megabytes) for megabytes in (0.0, 0.34, 9.9, 10.2, 12345.6)] == ["0.0", "0.3", "9.9", "10", "12,346"]


def test_a_log_says_how_many_tasks_are_done(capsys):
    with shown_progress() as show:
        show(Progress("reading", None, tasks=(3, 1200)))
    assert capsys.readouterr().err == "reading: 3 of 1,200 tasks, 0:00\n"
