"""A task's files are read byte for byte, and a file that is not text is an error of one line."""

import gzip

import pytest

from model.errors import UserError
from pretrain.finetune.text import read_text


def test_a_file_is_read_as_it_is(tmp_path):
    (tmp_path / "train.tsv").write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\n\r")
    assert read_text(tmp_path / "train.tsv") == "caf\u00e9\r\n\r"


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"sentence"), "caf\u00e9".encode("latin1"), "a".encode("utf-16")],
    ids=["gzip", "latin1", "utf-16"],
)
def test_what_is_not_utf8_is_one_line(tmp_path, content):
    (tmp_path / "train.tsv").write_bytes(content)
    with pytest.raises(UserError, match=r"train.tsv is not UTF-8 \(its byte \d\); unpack it, or convert it by iconv"):
        read_text(tmp_path / "train.tsv")


def test_what_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read: Is a directory; name another folder by --data"):
        read_text(tmp_path)
