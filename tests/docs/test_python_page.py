"""docs/python.md: its code runs from the top to the end, as a notebook would, on a run's folder."""

import contextlib
import io
import os
import subprocess
import sys

import pytest

from tests.support.page_code import blocks
from tests.support.plugins import forget_plugins
from tests.support.run_on_disk import make_corpus, make_run


@pytest.fixture
def forgotten():
    yield
    forget_plugins()


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, forgotten):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "demo", make_corpus(tmp_path / "corpus"))
    (tmp_path / "drop_layers.py").write_text(blocks("adding-an-operator.md")[0].text, "utf-8")
    code = "".join(block.text for block in blocks("python.md"))
    scope: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, scope)
    assert scope["deeper"].config.layers == 4 and scope["shallow"].config.layers == 1
    assert scope["difference"] < 1e-4, "widen without noise keeps the function"
    assert len(scope["steps"]) == 40 and list(scope["changes"].operator) == ["stack"]
    assert printed.getvalue().startswith("2x32 heads 4 ffn 48\n")


def test_padding_changes_nothing_and_long_texts_are_refused(tmp_path):
    """Padding to a longer text in the batch does not change a text's hidden states."""
    from model.errors import UserError
    from pretrain.use.api import open_model

    make_run(tmp_path / "run", make_corpus(tmp_path / "corpus"))
    model = open_model(tmp_path / "run")
    short, long = "The cat runs.", "The old green dog sings because the cat runs under the house."
    both, alone = model(*model.tokenize([short, long])), model(*model.tokenize([short]))
    length = alone.hidden.shape[1]
    assert both.hidden.shape[1] > length
    assert (both.hidden[0, :length] - alone.hidden[0]).abs().max() < 1e-5
    assert (both.logits[0, :length] - alone.logits[0]).abs().max() < 1e-4
    assert alone.logits.shape[-1] == model.config.vocab_size
    with pytest.raises(UserError, match="this model reads 62 at most"):
        model.tokenize([long * 10])


def test_a_notebook_is_not_told_that_there_is_no_gpu(tmp_path):
    """DeepSpeed logs that to the standard output as it is imported."""
    make_run(tmp_path / "run", make_corpus(tmp_path / "corpus"))
    code = "import sys; from pretrain.use.api import open_model; open_model(sys.argv[1])"
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "WARNING" not in done.stderr
