"""SentencePiece models (Kudo and Richardson 2018), trained by their own library and turned into `tokenizers` ones."""

import io
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from model.errors import UserError
from pretrain.data.text.sentences import split_sentences

BLANK = "▁"  # represents the blank before a word
_CONTROL = 3  # type of a piece in the file format: a special token


def train_sentencepiece(kind: str, texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
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
    return convert_sentencepiece(model.getvalue())


def convert_sentencepiece(model: bytes) -> Tokenizer:
    """The content of a .model file as a `tokenizers` tokenizer with the same ids."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    unk_id = proto.trainer_spec.unk_id
    if proto.trainer_spec.model_type == proto.trainer_spec.BPE:
        vocabulary = {piece: id for id, (piece, _) in enumerate(pieces)}
        tokenizer = Tokenizer(models.BPE(vocabulary, _merges(pieces), unk_token=pieces[unk_id][0], fuse_unk=True))
    else:
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id))
    clean = [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if proto.normalizer_spec.precompiled_charsmap:
        clean.insert(0, normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap))
    tokenizer.normalizer = normalizers.Sequence(clean)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(BLANK)
    tokenizer.decoder = decoders.Metaspace(BLANK)
    special = [piece.piece for id, piece in enumerate(proto.pieces) if piece.type == _CONTROL or id == unk_id]
    tokenizer.add_special_tokens(special)
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
