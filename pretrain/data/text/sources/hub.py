"""A dataset of the Hugging Face Hub, streamed."""

from collections.abc import Iterable, Iterator

from model.errors import UserError
from pretrain.data.text.sources.base import NamedText, TextFormat, no_column


class HubDataset(NamedText):
    def knows(self, name: str) -> bool:
        """Any name may be one."""
        return True

    def read(self, name: str, format: TextFormat) -> Iterator[str | None]:
        import datasets

        try:
            rows = datasets.load_dataset(name, format.dataset_config, split=format.dataset_split, streaming=True)
        except Exception as error:  # the library raises dozens of types: not found, no network, no such split
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"corpus {name!r} is neither a path nor a dataset that can be loaded: {reason}") from error
        for row in _whole(rows, name):
            if format.text_column not in row:
                raise no_column(f"dataset {name}", format.text_column, row)
            yield row[format.text_column]


def _whole(rows: Iterable[dict], name: str) -> Iterator[dict]:
    try:
        yield from rows
    except Exception as error:  # of the network, and of every format that a dataset may have
        raise UserError(
            f"dataset {name} broke off: {str(error).splitlines()[0] if str(error) else type(error).__name__}; the same "
            "command goes on from there"
        ) from error
