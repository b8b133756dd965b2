"""Data sets from the Hugging Face Hub."""

from pathlib import Path
from typing import Any

from model.errors import UserError
from pretrain.settings.hub import TIMEOUT_SECONDS, quiet, reason_of


def load(name: str, config: str | None, files: str) -> Any:
    """A data set's splits. Raises UserError if it cannot be downloaded, naming the files to give instead."""
    import datasets
    import huggingface_hub

    try:
        with quiet():
            # Without a network `load_dataset` tries for half a minute; this fails at once. What is stored needs none.
            if not _is_stored(name, config):
                huggingface_hub.dataset_info(name, timeout=TIMEOUT_SECONDS)
            return datasets.load_dataset(name, config)
    except Exception as error:  # every cause of a failed download has its own kind of exception
        raise UserError(
            f"data set {name} cannot be downloaded from the Hub ({reason_of(error)}); download the files of {files} "
            "where there is a network and name their folder by --data"
        ) from None


def _is_stored(name: str, config: str | None) -> bool:
    """Whether `load_dataset` can work offline: the files, or what was prepared from them, are in the cache."""
    import datasets
    import huggingface_hub

    prepared = Path(datasets.config.HF_DATASETS_CACHE).expanduser() / name.replace("/", "___")
    is_downloaded = huggingface_hub.try_to_load_from_cache(name, "README.md", repo_type="dataset")
    return bool(is_downloaded) or any(prepared.glob(f"{config or ''}*"))
