"""`.idx`: Megatron's shards, which another program tokenized with the vocabulary that has to be given."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from model.errors import UserError
from pretrain.data.text.indexed import IndexedReader
from pretrain.data.text.shards import Documents
from pretrain.data.text.sources import limits
from pretrain.data.text.sources.base import Block, FileFormat, TextFormat


class TokenBlock(Block):
    """Its content is Documents: tokens, not text."""

    def documents(self, format: TextFormat, counts: Counter) -> Iterator[str]:
        return iter(())


class Megatron(FileFormat):
    ending: ClassVar[str] = ".idx"
    is_tokenized: ClassVar[bool] = True

    def read(self, file: Path, format: TextFormat) -> Iterator[Block]:
        shard = IndexedReader(file.with_suffix(""))
        for problem in shard.disorder(shortest=0):
            raise UserError(f"{problem}; make it again with the program that wrote it")
        boundaries = shard.document_sentences
        token_ends = shard.sentence_starts(boundaries)  # of the documents before each boundary
        first, item = 0, shard.tokens.itemsize
        while first < shard.num_documents:
            stop = int(np.searchsorted(token_ends, token_ends[first] + limits.CHUNK_BYTES // item))
            stop = min(max(stop, first + 1), shard.num_documents)
            documents = Documents(
                np.array(shard.tokens[token_ends[first] : token_ends[stop]]),
                np.array(shard.sentence_lengths[boundaries[first] : boundaries[stop]]),
                np.diff(boundaries[first : stop + 1]),
            )
            num_bytes = int(token_ends[stop] - token_ends[first]) * item
            disk_bytes = num_bytes * file.stat().st_size // max(1, len(shard.tokens) * item)
            yield TokenBlock(documents, num_bytes, disk_bytes)
            first = stop
