"""Vectors of lines: those of transformers, in the order of the file; what cannot be embedded is said in one line."""

import json
import os
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
import transformers

from pretrain.__main__ import main
from pretrain.use import embed
from pretrain.use.export import export
from tests.support.run_on_disk import make_corpus, make_run

LINES = ["The old river runs.", "A cat", "under the green tree a dog sings because " * 20, "house [MASK] near", "a"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed")
    make_run(folder / "run", make_corpus(folder / "small"))
    export(folder / "run")
    (folder / "lines.txt").write_text("\n".join(LINES), "utf-8")
    return folder


def of_transformers(run, pooling: str) -> np.ndarray:
    folder = run / "run" / "huggingface"
    tokenizer, model = (
        transformers.AutoTokenizer.from_pretrained(folder),
        transformers.AutoModel.from_pretrained(folder),
    )
    lines = [line.replace("[MASK]", "[ MASK ]") for line in LINES]  # a name in a text is text
    inputs = tokenizer(lines, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = model.eval()(**inputs).last_hidden_state
    is_token = inputs["attention_mask"].unsqueeze(-1)
    return (states[:, 0] if pooling == "cls" else (states * is_token).sum(1) / is_token.sum(1)).numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalise", [False, True])
def test_they_are_those_of_transformers(run, capsys, monkeypatch, pooling, normalise):
    monkeypatch.setattr(embed, "LINES_AT_ONCE", 3)  # two blocks
    expected = of_transformers(run, pooling)
    if normalise:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    output = run / f"{pooling}-{normalise}.npy"
    options = ["--output", str(output), "--pooling", pooling, "--rows", "2", *["--normalise"] * normalise]
    assert main(["embed", str(run / "run"), str(run / "lines.txt"), *options]) == 0
    found = np.load(output)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-4)
    printed = capsys.readouterr()
    assert printed.out == f"{output}: 5 vectors of 32\n"
    assert "espalier: 1 of 5 lines have more than the 62 tokens" in printed.err and "the first is line 3" in printed.err


def test_json_lines_hold_the_text_too(run):
    output = run / "new" / "vectors.jsonl"
    assert main(["embed", str(run / "run"), str(run / "lines.txt"), "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == [line.strip() for line in LINES]
    found = np.array([row["embedding"] for row in rows])
    np.testing.assert_allclose(found, of_transformers(run, "mean"), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("content", "output", "message"),
    [
        (b"", "out.npy", "lines is empty; write a text on each line"),
        (b"A cat.\n\nA dog.\n", "out.npy", "lines: line 2 has no text to embed; remove it"),
        (b"A cat.\n\xff\xfe\n", "out.npy", "lines: line 2 is not UTF-8"),
        (None, "out.npy", "lines is not a file; name one with a text on each line"),
        (b"A cat.\n", "out.csv", "out.csv must end in .npy or .jsonl"),
        (b"A cat.\n", "lines/out.npy", "is a file, not a folder"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(run, tmp_path, capsys, content, output, message):
    if content is not None:
        (tmp_path / "lines").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    assert main(["embed", str(run / "run"), str(tmp_path / "lines"), "--output", str(tmp_path / output)]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("accelerator", "expected"), [("cpu", "cpu"), ("cuda", "cuda")])
def test_one_variable_of_deepspeed_decides_here_too(monkeypatch, accelerator, expected):
    """On a machine with GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("DS_ACCELERATOR", accelerator)
    moved: list[torch.device] = []
    embed.Embedder(SimpleNamespace(to=moved.append))
    assert moved == [torch.device(expected)]
