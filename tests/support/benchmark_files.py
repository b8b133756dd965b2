"""GLUE and SQuAD in their authors' formats, small enough to learn in seconds."""

import json
from pathlib import Path

PARAGRAPH = "The old dog sings under a green tree, near the river. " * 4 + "A small CAT runs near the House!"


def write_tsv(folder: Path, **files: str) -> Path:
    """`write_tsv(folder, train=..., dev=...)`: one file for each, as GLUE names them. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.tsv").write_text(text)
    return folder


def write_sst2(folder: Path, num_train: int = 96) -> Path:
    """SST-2 with an easy label: whether the sentence has a cat. Returns the folder above it."""

    def rows(count: int) -> str:
        subjects = ("cat", "dog")
        return "".join(
            f"The old {subjects[n % 2]} sings near {'a green' * (n % 3)} house\t{n % 2}\n" for n in range(count)
        )

    head = "sentence\tlabel\n"
    return write_tsv(folder / "SST-2", train=head + rows(num_train), dev=head + rows(32)).parent


def write_squad(folder: Path, version: str = "v1.1", unanswerable: bool = False) -> Path:
    """Three questions on PARAGRAPH, in both splits; with `unanswerable` a fourth without an answer."""
    folder.mkdir()
    answers = [("where is the dog", "under a green tree"), ("who runs", "CAT"), ("where runs a cat", "near the House")]
    qas = [
        {"id": str(n), "question": question, "answers": [{"text": text, "answer_start": PARAGRAPH.index(text)}]}
        for n, (question, text) in enumerate(answers)
    ]
    if unanswerable:
        qas.append({"id": "none", "question": "who sleeps", "answers": [], "is_impossible": True})
    content = json.dumps({"data": [{"title": "t", "paragraphs": [{"context": PARAGRAPH, "qas": qas}]}]})
    for split in ("train", "dev"):
        (folder / f"{split}-{version}.json").write_text(content)
    return folder
