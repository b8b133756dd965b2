"""A folder with a model that a setting names: one here, or a model of the Hugging Face Hub as `hub:OWNER/NAME`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from model.errors import UserError

PREFIX = "hub:"
NEEDED = ("config.json", "model.safetensors")
TOKENIZER = ("tokenizer*", "vocab.txt", "special_tokens_map.json")
TIMEOUT_SECONDS = 10
"""Time limit for asking whether the Hub can be reached; huggingface_hub's own."""


def local_folder(path: Path) -> Path:
    """`path` itself, or where the Hub's model is on this machine, downloaded if it is not there yet.

    Raises UserError in one line if it cannot be downloaded.
    """
    if not str(path).startswith(PREFIX):
        return path
    import huggingface_hub

    name, files = str(path).removeprefix(PREFIX), [*NEEDED, *TOKENIZER]
    with contextlib.suppress(Exception):  # it is not here, or the name is none: the download says it
        stored = Path(huggingface_hub.snapshot_download(name, allow_patterns=files, local_files_only=True))
        if all((stored / file).is_file() for file in NEEDED):
            return stored
    try:
        with quiet():
            huggingface_hub.model_info(name, timeout=TIMEOUT_SECONDS)  # without a network this fails at once
            return Path(huggingface_hub.snapshot_download(name, allow_patterns=files))
    except Exception as error:  # every cause of a failed download has its own kind of exception
        raise UserError(
            f"model {name} cannot be downloaded from the Hub ({reason_of(error)}); download its {', '.join(NEEDED)} "
            "and tokenizer where there is a network, and name their folder"
        ) from None


def reason_of(error: Exception) -> str:
    """One line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the line that each failed and retried request logs."""
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
