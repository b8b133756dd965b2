"""docs/adding-a-data-source.md: one file and a line in a list make the source, and its test passes."""

import pytest

from tests.support.page_code import Copy, with_page

PREPARE = """
from pathlib import Path

from pretrain.data import PrepareOptions, prepare

rows = "\\n".join(f"{number}\\tSpeech number {number} is a short one." for number in range(200))
Path("speeches.tsv").write_text("year\\ttext\\n" + rows)
options = PrepareOptions(
    sources=("speeches.tsv",), output=Path("corpus"), tokenizer="characters", valid_share=0.1, num_workers=1
)
splits = prepare(options)["splits"]
print(sum(split["num_documents"] for split in splits.values()))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Copy:
    return with_page("adding-a-data-source.md", tmp_path_factory.mktemp("data-source"))


def test_it_is_one_file_and_a_list(copy):
    assert copy.new_files == ["pretrain/data/text/sources/tab_separated.py", "tests/test_tab_separated.py"]
    assert set(copy.changed_files) == {"pretrain/data/text/sources/__init__.py"}


def test_the_test_on_the_page_passes(copy):
    assert "1 passed" in copy.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_tab_separated.py")


def test_prepare_takes_it(copy):
    assert copy.run("-c", PREPARE).splitlines()[-1] == "200"
