"""Where text comes from: kinds of files, texts with a name, and these two lists. One file for each kind."""

from pretrain.data.text.sources.base import FileFormat, NamedText
from pretrain.data.text.sources.built_in import Sotu
from pretrain.data.text.sources.fasta import Fasta, ShortFasta
from pretrain.data.text.sources.hub import HubDataset
from pretrain.data.text.sources.json_lines import JsonLines
from pretrain.data.text.sources.megatron import Megatron
from pretrain.data.text.sources.parquet import Parquet
from pretrain.data.text.sources.plain_text import PlainText

FILE_FORMATS: tuple[FileFormat, ...] = (
    PlainText(),
    JsonLines(),
    Parquet(),
    Fasta(),
    ShortFasta(),
    Megatron(),
)
NAMED_TEXTS: tuple[NamedText, ...] = (Sotu(), HubDataset())
"""The first that knows a name reads it."""
