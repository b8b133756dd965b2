"""Data sets from the Hugging Face Hub."""

from typing import Any

from model.errors import UserError


def load(name: str, config: str | None, files: str) -> Any:
    """A data set's splits. Raises UserError when it cannot be had, naming the files to give instead."""
    import datasets

    try:
        return datasets.load_dataset(name, config)
    except Exception as error:  # every cause of a failed download has its own kind of exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"data set {name} cannot be had from the Hub ({reason}); download the files of {files} where there is a "
            "network and name their folder by --data"
        ) from None
