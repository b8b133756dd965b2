"""A corpus prepared by jobs of SLURM, on the nodes that it gives them."""

import json
import sys
from pathlib import Path

from pretrain.data import PrepareOptions, prepare
from tests.support.cluster import Cluster
from tests.support.corpora import made_up_documents
from tests.support.home import HOME


def test_jobs_write_the_corpus_of_one_process(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    documents = made_up_documents(1200)
    for number in range(2):  # more than half a megabyte each, a task each
        lines = [json.dumps({"text": document}) + "\n" for document in documents[number::2]]
        (tmp_path / f"text/{number}.jsonl").write_text("".join(lines))
    options = dict(vocab_size=200, valid_share=0.2, num_workers=1)
    prepare(PrepareOptions((str(tmp_path / "text"),), tmp_path / "here", **options))

    command = [sys.executable, "-m", "pretrain", "prepare", str(tmp_path / "text"), "--output", str(tmp_path / "jobs")]
    command += ["--vocab-size", "200", "--valid-share", "0.2", "--executor", "slurm", "--task-mb", "1"]
    done = cluster.attempt(*command, environment={"PYTHONPATH": str(HOME)})
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "jobs") == content(tmp_path / "here")


def content(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}
