"""A SentencePiece model as a tokenizer.json, for programs that read only these: transformers, above all.

The ids are SentencePiece's, with three exceptions. The `tokenizers` library drops or keeps other combining marks where
a letter has a rare one or several. (NFC before it makes that worse: it also puts marks in order.) It sums scores in
float64, so that another of two equally probable cuts may win. And it finds special tokens in a text.
"""

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from model.errors import UserError

_NORMAL, _USER_DEFINED = 1, 4  # types of a piece in the file format; user-defined ones are always found whole
_BLANK = "▁"
_ASIDE = "\ue001"


def as_tokenizers(model: bytes, special_names: Sequence[str]) -> Tokenizer:
    """`special_names`: of [PAD], [UNK], [CLS], [SEP], [MASK]; those that are not pieces are added at the end.

    Raises UserError for a model with blanks at the ends of words: the library knows none.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]  # made at import
    if proto.trainer_spec.treat_whitespace_as_suffix:
        raise UserError(
            "transformers cannot read a SentencePiece model with blanks at the ends of words "
            "(treat_whitespace_as_suffix); train the vocabulary without, if the model is to be exported"
        )
    trainer, is_bpe = proto.trainer_spec, proto.trainer_spec.model_type == proto.trainer_spec.BPE
    tokenizer = Tokenizer(_bpe(proto) if is_bpe else _unigram(proto))
    known = [piece.piece for piece in proto.pieces if piece.type == _USER_DEFINED and piece.piece not in special_names]
    splits = trainer.split_by_whitespace and not any(_BLANK in piece[1:-1] for piece in known)
    tokenizer.normalizer = _normalizer(proto.normalizer_spec, strips=not (is_bpe and known))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        _BLANK, "first" if proto.normalizer_spec.add_dummy_prefix else "never", split=splits
    )
    steps = [decoders.ByteFallback()] if trainer.byte_fallback else []
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Metaspace(_BLANK), decoders.Fuse()])
    if is_bpe:
        tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in known])
    *others, mask = special_names
    tokenizer.add_special_tokens([*others, AddedToken(mask, lstrip=True, normalized=False, special=True)])
    return tokenizer


def _unigram(proto: Any) -> models.Unigram:
    """User-defined pieces get the score that SentencePiece gives them, which wins over any other way to cut them."""
    best = max((piece.score for piece in proto.pieces if piece.type == _NORMAL), default=0.0)
    pieces = [
        (piece.piece, len(piece.piece.encode()) * best - 0.1 if piece.type == _USER_DEFINED else piece.score)
        for piece in proto.pieces
    ]
    return models.Unigram(pieces, proto.trainer_spec.unk_id, proto.trainer_spec.byte_fallback)


def _bpe(proto: Any) -> models.BPE:
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    vocabulary = {piece: id for id, (piece, _) in enumerate(pieces)}
    unk, fallback = pieces[proto.trainer_spec.unk_id][0], proto.trainer_spec.byte_fallback
    return models.BPE(vocabulary, _merges(pieces), unk_token=unk, fuse_unk=True, byte_fallback=fallback)


def _normalizer(spec: Any, strips: bool) -> normalizers.Normalizer:
    """Blanks before a text are left to the prefix: a text begins after every mask, too."""
    steps: list[normalizers.Normalizer] = []
    if spec.name.endswith("_cf"):  # Precompiled would drop marks of capitals; İ is left to it
        steps += [normalizers.Replace("İ", _ASIDE), normalizers.Lowercase(), normalizers.Replace(_ASIDE, "İ")]
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
        if strips:
            steps.append(normalizers.Replace(Regex(r" \z"), ""))
    return normalizers.Sequence(steps)


def _merges(pieces: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """The merges of a BPE model, which its file holds only as pieces: each from every pair of pieces that makes it."""
    number = {piece: id for id, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces:
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in number and pair[1] in number]
        merges += [(-score, number[left], number[right], left, right) for left, right in known]
    return [(left, right) for *_, left, right in sorted(merges)]
