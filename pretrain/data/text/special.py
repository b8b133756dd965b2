"""The five special tokens, under BERT's names, under those of RoBERTa and SentencePiece, or under ESM's."""

from collections.abc import Callable
from dataclasses import dataclass

from model.errors import UserError

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_OTHER_NAMES = {
    "[PAD]": ("<pad>",),
    "[UNK]": ("<unk>",),
    "[CLS]": ("<s>", "<cls>"),
    "[SEP]": ("</s>", "<eos>"),
    "[MASK]": ("<mask>",),
}

IdOf = Callable[[str], int | None]
"""The id of a token; None where the vocabulary does not hold it."""


@dataclass(frozen=True)
class SpecialIds:
    """Token ids of the special tokens."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int

    @classmethod
    def named(cls, id_of: IdOf) -> "SpecialIds":
        """By name: BERT's, RoBERTa's or ESM's. Raises UserError when one is missing."""
        found = [id_of(name) for name in special_names(id_of)]
        ids = [id for id in found if id is not None]
        if len(ids) < len(found):
            missing = ", ".join(token for token, id in zip(SPECIAL_TOKENS, found, strict=True) if id is None)
            raise UserError(
                f"the vocabulary lacks {missing}; it must hold {', '.join(SPECIAL_TOKENS)}, "
                f"or the same as {', '.join(names[0] for names in _OTHER_NAMES.values())}"
            )
        return cls(*ids)

    def all(self) -> list[int]:
        return [self.pad, self.unk, self.cls, self.sep, self.mask]


def special_names(id_of: IdOf) -> list[str]:
    """The vocabulary's own names for [PAD], [UNK], [CLS], [SEP] and [MASK]; BERT's where it has none."""
    return [
        next((each for each in (name, *_OTHER_NAMES[name]) if id_of(each) is not None), name) for name in SPECIAL_TOKENS
    ]
