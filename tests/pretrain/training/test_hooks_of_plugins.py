"""A recipe's `hooks` are the arguments of the hooks that plugins bring; a mistake there is one line."""

import pytest

from model import registry
from model.errors import UserError
from pretrain.training.events import Hook
from pretrain.training.hooks_of_plugins import check_options, hooks_of_plugins


class Spikes(Hook):
    name = "spikes"

    def __init__(self, factor: float = 1.5, *, every: int = 1):
        self.options = factor, every


class Plain(Hook):
    pass


@pytest.fixture(autouse=True)
def two_hooks(monkeypatch):
    monkeypatch.setattr(registry, "_added", [Spikes, Plain])


def test_a_hook_is_made_with_the_options_under_its_name():
    spikes, plain = hooks_of_plugins({"spikes": {"factor": 2}, "Plain": {}})
    assert isinstance(plain, Plain) and isinstance(spikes, Spikes)
    assert spikes.options == (2.0, 1)
    assert [type(hook) for hook in hooks_of_plugins({})] == [Spikes, Plain]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spike": {}}, r"hooks.spike: no plugin has such a hook \(did you mean 'spikes'\?\); there are spikes, Plain"),
        ({"spikes": {"factr": 2}}, r"unknown key hooks.spikes.factr \(did you mean 'factor'\?\); allowed here: factor"),
        ({"spikes": {"factor": "high"}}, r"hooks.spikes.factor is 'high': input should be a valid number"),
        ({"Plain": {"factor": 2}}, r"unknown key hooks.Plain.factor"),
    ],
)
def test_what_no_hook_takes_is_one_line(options, message):
    with pytest.raises(UserError, match=message):
        check_options(options)


def test_without_plugins_there_is_nothing_to_give_options_to(monkeypatch):
    monkeypatch.setattr(registry, "_added", [])
    check_options({})
    with pytest.raises(UserError, match=r"hooks.spikes: .*there are none; name its file under plugins"):
        check_options({"spikes": {}})
