"""Data sets from the Hugging Face Hub."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.errors import UserError

TIMEOUT_SECONDS = 10
"""Time limit for asking whether the Hub can be reached; huggingface_hub's own."""


def load(name: str, config: str | None, files: str) -> Any:
    """A data set's splits. Raises UserError if it cannot be downloaded, naming the files to give instead."""
    import datasets
    import huggingface_hub

    try:
        with _quiet():
            # Without a network `load_dataset` tries for half a minute; this fails at once. What is stored needs none.
            if not _is_stored(name, config):
                huggingface_hub.dataset_info(name, timeout=TIMEOUT_SECONDS)
            return datasets.load_dataset(name, config)
    except Exception as error:  # every cause of a failed download has its own kind of exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"data set {name} cannot be downloaded from the Hub ({reason}); download the files of {files} where there "
            "is a network and name their folder by --data"
        ) from None


def _is_stored(name: str, config: str | None) -> bool:
    """Whether `load_dataset` can work offline: the files, or what was prepared from them, are in the cache."""
    import datasets
    import huggingface_hub

    prepared = Path(datasets.config.HF_DATASETS_CACHE).expanduser() / name.replace("/", "___")
    is_downloaded = huggingface_hub.try_to_load_from_cache(name, "README.md", repo_type="dataset")
    return bool(is_downloaded) or any(prepared.glob(f"{config or ''}*"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the line that each failed and retried request logs."""
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
