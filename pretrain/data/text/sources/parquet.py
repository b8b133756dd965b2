"""`.parquet`: a table with the text in `text_column`."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from model.errors import UserError
from pretrain.data.text.sources.base import Block, FileFormat, TextFormat, decoded, no_column

if TYPE_CHECKING:
    import pyarrow


class Parquet(FileFormat):
    ending: ClassVar[str] = ".parquet"

    def read(self, file: Path, format: TextFormat) -> Iterator[Block]:
        import pyarrow.parquet as parquet

        column = format.text_column
        try:
            table = parquet.ParquetFile(file)
            if column not in table.schema_arrow.names:
                raise no_column(str(file), column, table.schema_arrow.names)
            file_bytes, num_rows = file.stat().st_size, max(1, table.metadata.num_rows)
            for batch in table.iter_batches(batch_size=256, columns=[column]):
                documents = as_bytes(batch.column(0)).to_pylist()
                yield ColumnBlock(documents, batch.nbytes, file_bytes * len(documents) // num_rows)
        except (OSError, ArithmeticError, ValueError) as error:  # pyarrow's errors are one of these
            if isinstance(error, UserError):
                raise
            raise UserError(f"{file} cannot be read as parquet: {error}") from error


class ColumnBlock(Block):
    """Strings are still bytes: pyarrow would raise at the first one that is no UTF-8."""

    def documents(self, format: TextFormat, counts: Counter) -> Iterator[str | None]:
        return (decoded(value, counts) if isinstance(value, bytes) else value for value in self.content)


def as_bytes(column: "pyarrow.Array") -> "pyarrow.Array":
    """Strings, whatever their layout, as bytes; other values as they are."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_text = types.is_string(column.type) or types.is_large_string(column.type) or types.is_string_view(column.type)
    return column.cast(pyarrow.large_binary()) if is_text else column
