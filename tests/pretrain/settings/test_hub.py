"""A model of the Hub by name: taken from this machine, else downloaded, else one line."""

from pathlib import Path

import huggingface_hub
import pytest

from model.errors import UserError
from pretrain.settings.hub import NEEDED, local_folder

NAME = Path("hub:google-bert/bert-base-uncased")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of the model; what was asked of the Hub is noted in `hub.asked`."""

    class Hub:
        folder, asked, online = tmp_path, [], True

        def download(self, name, allow_patterns, local_files_only=False):
            assert name == "google-bert/bert-base-uncased" and "tokenizer*" in allow_patterns
            if not local_files_only:
                self.asked.append(name)
                for file in NEEDED:
                    (tmp_path / file).touch()
            return str(tmp_path)

        def info(self, name, timeout):
            if not self.online:
                raise ConnectionError("no route to host\nand more")

    found = Hub()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.download)
    monkeypatch.setattr(huggingface_hub, "model_info", found.info)
    return found


def test_a_folder_is_itself(hub):
    assert local_folder(Path("runs/demo")) == Path("runs/demo") and not hub.asked


def test_a_model_is_downloaded_once(hub):
    assert local_folder(NAME) == local_folder(NAME) == hub.folder
    assert len(hub.asked) == 1


def test_without_a_network_one_line_says_what_to_do(hub):
    hub.online = False
    (hub.folder / "config.json").touch()  # something else has left a part of it
    with pytest.raises(
        UserError, match=r"bert-base-uncased cannot be downloaded from the Hub \(no route to host\)"
    ) as one:
        local_folder(NAME)
    assert "\n" not in str(one.value) and "name their folder" in str(one.value)
