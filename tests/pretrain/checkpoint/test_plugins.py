"""A checkpoint loads the plugins of its run only where its shape has fields that are unknown without them."""

import json
from pathlib import Path

import pytest

from model.config import BertConfig
from pretrain.checkpoint import files
from pretrain.checkpoint.files import FORMAT, INDEX, find_damage, read_index, write_text
from pretrain.settings.plugins import PluginError

SHAPE = BertConfig(layers=1, hidden=8, heads=2, ffn=8, vocab_size=9).model_dump()


def write(folder: Path, plugins: list[str], **fields: object) -> Path:
    index = {"format": FORMAT, "config": SHAPE | fields, "run": {"recipe": {"plugins": plugins}}, "parameters": {}}
    checksum = write_text(folder / INDEX, json.dumps(index))
    write_text(folder / files.CHECKSUMS, f"{checksum}  {INDEX}\n")
    return folder


def test_the_code_of_a_plugin_stays_unread_where_the_shape_needs_none(tmp_path, monkeypatch):
    loaded: list[str] = []
    monkeypatch.setattr(files, "load_plugins", loaded.extend)
    read_index(write(tmp_path, ["operator.py"]))
    assert loaded == []
    read_index(write(tmp_path, ["variant.py"], layer_scale=True))
    assert loaded == ["variant.py"]


def test_a_plugin_that_is_gone_is_named_and_the_checkpoint_is_not_called_damaged(tmp_path):
    folder = write(tmp_path, ["gone/variant.py"], layer_scale=True)
    for read in (read_index, find_damage):
        with pytest.raises(PluginError, match="^plugin gone/variant.py: it does not exist"):
            read(folder)
