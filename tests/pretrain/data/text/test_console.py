"""How `prepare` tells what it has read."""

from pretrain.data.text.console import size


def test_a_small_text_is_not_zero():
    assert [size(megabytes) for megabytes in (0.0, 0.34, 9.9, 10.2, 12345.6)] == ["0.0", "0.3", "9.9", "10", "12,346"]
