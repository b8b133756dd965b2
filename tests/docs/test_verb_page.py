"""docs/adding-a-verb.md: the verb on the page runs, and so does the test that it shows."""

import re
import sys
from types import ModuleType

import pytest

from pretrain.__main__ import main
from pretrain.cli import VERBS
from tests.support.home import HOME

PAGE = (HOME / "docs" / "adding-a-verb.md").read_text(encoding="utf-8")
VERB, LINE, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def tokens(monkeypatch):
    module = ModuleType("pretrain.cli.tokens")
    exec(VERB, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (entry,) = eval("{" + LINE + "}").items()
    monkeypatch.setitem(VERBS, *entry)
    return module.tokens


def test_the_line_is_the_first_of_the_docstring(tokens):
    assert tokens.__doc__.splitlines()[0] == VERBS["tokens"]


def test_the_test_on_the_page_passes(tokens, corpus, capsys):
    scope: dict = {}
    exec(TEST, scope)
    scope["test_tokens"](corpus, capsys)


def test_its_help_and_that_of_all_verbs_have_it(tokens, capsys):
    assert main(["--help"]) == 0
    assert VERBS["tokens"] in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["tokens", "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "The text to split." in printed and "Print the ids of the tokens instead." in printed


def test_a_mistake_comes_out_as_the_page_says(tokens, capsys):
    (shown,) = re.findall(r"^    (espalier: .*)$", PAGE, re.MULTILINE)
    assert main(["tokens", "corpora/nowhere", "We the people"]) == 2
    assert capsys.readouterr().err == f"{shown}\n"


def test_what_the_page_names_exists():
    for path in re.findall(r"`((?:pretrain|tests)/[\w/]+\.py)`", PAGE):
        assert (HOME / path).is_file() or path == "pretrain/cli/tokens.py", path
