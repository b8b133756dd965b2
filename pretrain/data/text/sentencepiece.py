"""SentencePiece models (Kudo and Richardson 2018), trained and encoded by their own library."""

import io
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
from tokenizers import Tokenizer

from model.errors import UserError
from pretrain.data.text.json_tokenizer import BLANK, Encoded
from pretrain.data.text.sentencepiece_json import as_tokenizers
from pretrain.data.text.sentences import split_sentences
from pretrain.data.text.special import SpecialIds, special_names

_PLACE_OF_MASK = "\ue000"  # a private character, which no model normalises


class SentencePieceTokenizer:
    """A .model file. Special tokens that it lacks ([MASK] as a rule) are added after its last piece.

    The ids are the library's on the whole document. One difference: where the model would find a special token in a
    text, as some find "[MASK]", it is unknown.
    """

    file_name: ClassVar = "tokenizer.model"
    spells: ClassVar = False

    def __init__(self, content: bytes) -> None:
        """`content` of a .model file."""
        import sentencepiece

        self.content = content
        self.library = sentencepiece.SentencePieceProcessor(model_proto=content, num_threads=1)
        self.tokens: list[str] = [self.library.id_to_piece(id) for id in range(self.library.get_piece_size())]
        self._ids = {token: id for id, token in enumerate(self.tokens)}
        for name in self.special_names:
            if name not in self._ids:
                self._ids[name] = len(self.tokens)
                self.tokens.append(name)
        self.special = SpecialIds(*(self._ids[name] for name in self.special_names))
        special = np.array([id for id in self.special.all() if id != self.special.unk])
        self._text_ids = np.arange(len(self.tokens))
        self._text_ids[special] = self.special.unk

    @property
    def special_names(self) -> list[str]:
        """By name; what no name tells is what the file says of itself."""
        library, names = self.library, special_names(self._ids.get)
        said = [library.pad_id(), library.unk_id(), library.bos_id(), library.eos_id(), -1]
        return [
            self.tokens[id] if name not in self._ids and id >= 0 else name for name, id in zip(names, said, strict=True)
        ]

    @property
    def lowers_case(self) -> bool:
        return self.library.normalize("A").strip(BLANK) == "a"

    @cached_property
    def word_starts(self) -> np.ndarray:
        """[vocab] bool: whether a token opens a word. What does not is masked together with what stands before it."""
        return np.array([token.startswith(BLANK) for token in self.tokens])

    @cached_property
    def stores_words(self) -> bool:
        """Whether the blank stands at the end of a word, so that a token tells only of the one after it."""
        return self._proto.trainer_spec.treat_whitespace_as_suffix

    def encode(self, text: str) -> list[int]:
        return self._text_ids[self.library.encode(text, return_type="numpy")].tolist()

    def encode_masked(self, text: str) -> list[int]:
        """As `encode`, but "[MASK]" in the text is the mask, and the blank before it is part of it."""
        text = text.replace("[MASK]", _PLACE_OF_MASK)
        (encoded,) = self.encode_documents([text])
        ids: list[int] = []
        waiting: list[int] = []  # tokens of no width: blanks that are put before a text, first bytes of a character
        begin = 0
        for id, end in zip(np.asarray(encoded.ids).tolist(), encoded.ends, strict=True):
            waiting.append(id)
            if end > begin:
                if num_masks := text[begin:end].count(_PLACE_OF_MASK):
                    if ids and self.tokens[ids[-1]] == BLANK:
                        ids.pop()
                    waiting = [self.special.mask] * num_masks
                ids += waiting
                waiting, begin = [], end
        return ids + waiting

    def encode_documents(self, texts: list[str]) -> list[Encoded]:
        """Whole documents: no limit of a sentence changes an id."""
        encoded = []
        for each in self.library.encode(texts, return_type="offset_mapping"):
            ids = self._text_ids[each["ids"]]
            opens = self._opened(ids) if self.stores_words else None
            encoded.append(Encoded(ids, [end for _, end in each["offsets"]], opens))
        return encoded

    def _opened(self, ids: np.ndarray) -> np.ndarray:
        """[T] where the token before ends with a blank."""
        ends_word = np.array([token.endswith(BLANK) for token in self.tokens])[ids]
        return np.concatenate([[True], ends_word[:-1]])[: len(ids)]

    def decode(self, ids: Sequence[int]) -> str:
        special = self.special.all()
        return self.library.decode([int(id) for id in ids if id not in special])

    def token_to_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def id_to_token(self, id: int) -> str | None:
        return self.tokens[id]

    def for_transformers(self) -> Tokenizer:
        """As near as the `tokenizers` library comes to it."""
        return as_tokenizers(self.content, self.special_names)

    @cached_property
    def _proto(self):
        from sentencepiece import sentencepiece_model_pb2

        return sentencepiece_model_pb2.ModelProto.FromString(self.content)  # type: ignore[attr-defined]  # made at import


def train_sentencepiece(kind: str, texts: Iterable[str], vocab_size: int, lowercase: bool) -> SentencePieceTokenizer:
    """kind is "unigram" or "bpe". Raises UserError when the text does not suit the size of the vocabulary."""
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(sentence for text in texts for sentence in split_sentences(text)),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
            pad_id=0, unk_id=1, bos_id=2, eos_id=3,
            pad_piece="[PAD]", unk_piece="[UNK]", bos_piece="[CLS]", eos_piece="[SEP]", control_symbols=["[MASK]"],
            num_threads=1,  # with more, equally good pieces are numbered by chance
            max_sentence_length=1 << 16,
            minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        raise UserError(f"SentencePiece cannot train a {kind} vocabulary of {vocab_size}: {error}") from error
    return SentencePieceTokenizer(model.getvalue())
