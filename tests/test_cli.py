"""The command line: verbs, help, and mistakes as one line with exit code 2."""

import inspect

import pytest

from pretrain.__main__ import VERBS, main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plna"], "verb 'plna' is unknown (did you mean 'plan'?); choose one of demo, test,"),
        (["plan", "nowhere.yaml"], "recipe 'nowhere.yaml' is neither a file nor"),
        (["plan", "base", "--set", "steps"], "--set steps: write KEY=VALUE"),
        (["plan", "base", "--set", "stepz=3"], "unknown key stepz (did you mean 'steps'?)"),
        (["plan", "base", "--set", "layout.tensor_parallel=2", "--nproc", "3"], "does not divide the 3 processes"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, arguments, message):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert message in printed.err


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.__name__)
def test_every_option_of_a_verb_is_explained(verb):
    undocumented = [
        option for option in inspect.signature(verb).parameters if f"\n        {option}: " not in verb.__doc__
    ]
    assert undocumented == (["corpus"] if verb.__name__ == "prepare" else [])  # whose fields explain themselves


def test_plan_prints_shapes_work_memory_and_schedule(capsys):
    assert main(["plan", "base", "--nproc", "8"]) == 0
    out = capsys.readouterr().out
    assert "12x768" in out
    assert "110,106,428" in out  # with both heads
    assert "900,000" in out
    assert "0.0001" in out
