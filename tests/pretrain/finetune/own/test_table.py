"""Tables as programs write them: separators, quotes, encodings, kinds of files, damage."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from model.errors import UserError
from pretrain.finetune.own.table import read_table

ROWS = {"text": ['He said "no", then; left', "a\nb", "Grüße"], "label": ["x", "y", None]}
CSV = 'text{0}label\n"He said ""no"", then; left"{0}x\n"a\nb"{0}y\n\nGrüße{0}\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_and_encodings(tmp_path, separator, encoding):
    path = tmp_path / "table.csv"
    path.write_bytes(CSV.format(separator).replace("\n", "\r\n").encode(encoding))
    columns = read_table(path).columns
    assert {name: [cell and cell.replace("\r", "") for cell in cells] for name, cells in columns.items()} == ROWS


def test_a_tsv_may_have_quotes_that_quote_nothing(tmp_path):
    (tmp_path / "table.tsv").write_text('text\tlabel\n"so it begins\t0\n5" long\t1\n')
    assert read_table(tmp_path / "table.tsv").columns == {"text": ['"so it begins', '5" long'], "label": ["0", "1"]}


def test_json_lines_and_parquet(tmp_path):
    rows = [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]
    del rows[2]["label"]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    parquet.write_table(pyarrow.table(ROWS), tmp_path / "table.parquet")
    assert read_table(tmp_path / "table.jsonl").columns == read_table(tmp_path / "table.parquet").columns == ROWS


def test_classes_of_the_library_datasets_have_their_names(tmp_path):
    import datasets

    kinds = datasets.ClassLabel(names=["good", "bad"])
    features = datasets.Features(label=kinds, tags=datasets.Sequence(kinds))
    rows = datasets.Dataset.from_dict({"label": [1, -1], "tags": [[0, 1], [1]]}, features=features)
    rows.to_parquet(tmp_path / "table.parquet")
    columns = read_table(tmp_path / "table.parquet").columns
    assert columns == {"label": ["bad", None], "tags": [["good", "bad"], ["bad"]]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "none.csv is not a file; name a table: .csv"),
        ("table.xlsx", b"", "table.xlsx must end in .csv, .tsv, .jsonl, .parquet"),
        ("table.csv", b"", "table.csv is empty"),
        ("table.csv", b"text,label\n", "table.csv has no rows"),
        (
            "table.csv",
            b"text,label\na,1\nb,c,2\n",
            "table.csv, line 3: not as many cells as the first line, which has 2",
        ),
        ("table.csv", b"text,text\na,b\n", "table.csv has two columns named 'text'"),
        ("table.csv", "text,label\nGrüße,1\n".encode("cp1252"), "table.csv is not UTF-8 .its byte 13.*iconv"),
        ("table.jsonl", b'{"text": "a"}\n[1]\n', "table.jsonl, line 2 is not a JSON object"),
        ("table.jsonl", b'{"text": \n', "table.jsonl, line 1 is not a JSON object"),
        ("table.parquet", b"PAR1nonsense", "table.parquet is not a readable Parquet file"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read_table(tmp_path / name)
    assert "\n" not in str(raised.value)
