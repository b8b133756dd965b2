"""A corpus prepared by jobs of SLURM, on the nodes that it gives them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.corpora import made_up_documents
from tests.support.home import HOME

PLUGIN = """
from pretrain.data.text.sources.json_lines import JsonLines

class Lines(JsonLines):
    ending = ".lines"
"""


def test_jobs_write_the_corpus_of_one_process_and_read_what_a_plugin_reads(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "lines.py").write_text(PLUGIN)
    documents = made_up_documents(1200)
    for number in range(2):  # more than half a megabyte each, a task each
        lines = [json.dumps({"text": document}) + "\n" for document in documents[number::2]]
        (tmp_path / f"text/{number}.lines").write_text("".join(lines))

    command = [sys.executable, "-m", "pretrain", "prepare", str(tmp_path / "text"), "--plugin", "lines.py"]
    command += ["--vocab-size", "200", "--valid-share", "0.2", "--output"]
    found = {"PYTHONPATH": str(HOME)}
    here = [*command, "here", "--num-workers", "1"]
    subprocess.run(here, env={**os.environ, **found}, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    jobs = [*command, "jobs", "--executor", "slurm", "--task-mb", "1"]
    done = cluster.attempt(*jobs, environment=found, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "jobs") == content(tmp_path / "here")


def content(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}
