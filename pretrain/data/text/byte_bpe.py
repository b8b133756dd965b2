"""Byte-level BPE (Radford et al. 2019), trained by the `tokenizers` library: any text has tokens, none is unknown."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from model.errors import UserError
from pretrain.data.text.special import SPECIAL_TOKENS


def train_byte_bpe(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """Raises UserError where the vocabulary has no room for all bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    least = len(SPECIAL_TOKENS) + len(alphabet)
    if vocab_size < least:
        raise UserError(
            f"vocab_size {vocab_size} is too small for tokenizer byte-bpe: {least} tokens are its bytes and the "
            "special ones"
        )
    tokenizer = Tokenizer(models.BPE())
    folded = [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()] if lowercase else []
    tokenizer.normalizer = normalizers.Sequence([*folded, normalizers.NFC()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
