"""`.parquet`: a table with the text in `text_column`."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from model.errors import UserError
from pretrain.data.text.sources.base import Block, FileFormat, TextFormat, no_column


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
                documents = batch.column(0).to_pylist()
                yield Block(documents, batch.nbytes, file_bytes * len(documents) // num_rows)
        except (OSError, ArithmeticError, ValueError) as error:  # pyarrow's errors are one of these
            if isinstance(error, UserError):
                raise
            raise UserError(f"{file} cannot be read as parquet: {error}") from error
