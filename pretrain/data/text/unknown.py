"""How much of a text a vocabulary does not know: a corpus that is mostly [UNK] teaches nothing."""

from collections import Counter
from itertools import islice

from model.errors import UserError
from pretrain.data.text.documents import documents_of
from pretrain.data.text.options import PrepareOptions
from pretrain.data.text.reading import Input, read_blocks
from pretrain.data.text.tokenizer import TextTokenizer

_MAX_SHARE = 0.5
_FILES, _DOCUMENTS, _CHARACTERS = 16, 20, 2_000
"""Of a sample: files, documents from the beginning of each, and characters of each document."""


def check_share(share: float, options: PrepareOptions, where: str = "") -> None:
    """Raises UserError when more than half of the tokens are [UNK] and nobody has allowed it."""
    if share > _MAX_SHARE and not options.allow_unknown:
        raise UserError(
            f"{share:.1%} of the tokens{where} are [UNK]: the vocabulary {options.vocab or 'trained'} does not suit "
            "the text; choose another, or accept it by --allow-unknown"
        )


def check_sample(options: PrepareOptions, inputs: list[Input], tokenizer: TextTokenizer) -> None:
    """The same, before hours of work."""
    files = [source for source in inputs if source.path is not None and not source.is_tokenized]
    num_unknown = num_tokens = 0
    for source in files[:: -(-len(files) // _FILES) or 1]:
        for block in islice(read_blocks(source, options.text_format), 1):
            documents = islice(documents_of(block, options.text_format, Counter()), _DOCUMENTS)
            for encoded in tokenizer.encode_documents([text[:_CHARACTERS] for text in documents]):
                num_tokens += len(encoded.ids)
                num_unknown += list(encoded.ids).count(tokenizer.special.unk)
    if num_tokens:
        check_share(num_unknown / num_tokens, options, " at the beginnings of files")
