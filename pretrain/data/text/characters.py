"""A vocabulary of characters, for models that must learn something within minutes."""

from collections.abc import Iterable
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from pretrain.data.text.json_tokenizer import BLANK
from pretrain.data.text.special import SPECIAL_TOKENS
from pretrain.data.text.wordpiece import character_counts


def train_characters(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """The commonest characters, one token each; a word begins with the token of the blank before it."""
    tokenizer = Tokenizer(models.WordLevel({}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.BertNormalizer(lowercase=lowercase, handle_chinese_chars=False),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Prepend(BLANK),
            normalizers.Replace(" ", BLANK),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(BLANK, " "), decoders.Strip(" ", 1, 0)])
    commonest = islice(character_counts(texts, tokenizer), vocab_size - len(SPECIAL_TOKENS))
    tokens = [*SPECIAL_TOKENS, *commonest]
    tokenizer.model = models.WordLevel({token: id for id, token in enumerate(tokens)}, unk_token="[UNK]")
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return tokenizer
