"""A SentencePiece model as a tokenizer.json, for programs that read only these: transformers, above all.

Pieces, scores and special tokens are the same. The `tokenizers` library normalises rare sequences of combining marks
in another way than SentencePiece; otherwise it gives the same ids.
"""

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

_USER_DEFINED = 4  # type of a piece in the file format: always found whole
_BLANK = "▁"


def as_tokenizers(model: bytes, special_names: Sequence[str]) -> Tokenizer:
    """`special_names`: of [PAD], [UNK], [CLS], [SEP], [MASK]; those that are no pieces are added at the end."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    if trainer.model_type == trainer.BPE:
        vocabulary = {piece: id for id, (piece, _) in enumerate(pieces)}
        unk = pieces[trainer.unk_id][0]
        bpe = models.BPE(vocabulary, _merges(pieces), unk_token=unk, fuse_unk=True, byte_fallback=trainer.byte_fallback)
        tokenizer = Tokenizer(bpe)
    else:
        tokenizer = Tokenizer(models.Unigram(pieces, trainer.unk_id, trainer.byte_fallback))
    steps = []
    if normalizer.precompiled_charsmap:
        steps.append(normalizers.Precompiled(normalizer.precompiled_charsmap))
    if normalizer.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        _BLANK, "always" if normalizer.add_dummy_prefix else "never", split=trainer.split_by_whitespace
    )
    steps = [decoders.ByteFallback()] if trainer.byte_fallback else []
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Metaspace(_BLANK), decoders.Fuse()])
    known = [piece.piece for piece in proto.pieces if piece.type == _USER_DEFINED and piece.piece not in special_names]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in known])
    tokenizer.add_special_tokens(list(special_names))
    return tokenizer


def _merges(pieces: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """The merges of a BPE model, which its file holds only as pieces: each from every pair of pieces that makes it."""
    number = {piece: id for id, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces:
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in number and pair[1] in number]
        merges += [(-score, number[left], number[right], left, right) for left, right in known]
    return [(left, right) for *_, left, right in sorted(merges)]
