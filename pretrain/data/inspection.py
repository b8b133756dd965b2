"""Inspects a prepared corpus: whether it is complete, and what the model will see."""

from collections.abc import Iterator
from pathlib import Path

from model.errors import UserError
from pretrain.data.corpus import Corpus
from pretrain.data.text.indexed import IndexedReader
from pretrain.data.text.writing import SPLITS, file_sha256

_BLOCK_TOKENS = 1 << 24


def check_corpus(directory: Path | str) -> dict[str, int]:
    """Reads every file of a corpus and compares it with the manifest; returns what was checked, by name.

    Raises UserError with all that is wrong, on one line.
    """
    corpus = Corpus.open(directory)
    problems: list[str] = []
    checked = {"shards": 0, "documents": 0, "sentences": 0, "tokens": 0}
    for split in SPLITS:
        for shard in corpus.manifest["splits"][split]["shards"]:
            problems += _problems(corpus, shard)
            checked["shards"] += 1
            for unit in ("documents", "sentences", "tokens"):
                checked[unit] += shard[f"num_{unit}"]
    if problems:
        raise UserError(f"corpus {directory} is damaged: {'; '.join(problems)}; prepare it again")
    return checked


def _problems(corpus: Corpus, shard: dict) -> Iterator[str]:
    prefix = corpus.directory / shard["name"]
    try:
        reader = IndexedReader(prefix)
    except UserError as error:
        yield str(error).removesuffix("; prepare the corpus again")
        return
    for suffix in (".bin", ".idx", ".words"):
        file = prefix.with_name(prefix.name + suffix)
        if not file.is_file():
            if f"sha256{suffix}" in shard:
                yield f"{file} is missing"
        elif file_sha256(file) != shard.get(f"sha256{suffix}"):
            yield f"{prefix}{suffix} has another checksum than the manifest"
    found = (reader.num_documents, reader.num_sentences, len(reader.tokens))
    announced = (shard["num_documents"], shard["num_sentences"], shard["num_tokens"])
    if found != announced:
        yield f"{prefix} holds {found} documents, sentences and tokens, the manifest says {announced}"
    yield from reader.disorder()
    forbidden = corpus.is_special.copy()
    forbidden[corpus.special.unk] = False
    for first in range(0, len(reader.tokens), _BLOCK_TOKENS):
        tokens = reader.tokens[first : first + _BLOCK_TOKENS]
        if tokens.max() >= corpus.vocab_size or tokens.min() < 0:
            yield f"{prefix}.bin holds the token {tokens.max()}, the vocabulary has {corpus.vocab_size}"
            return
        if forbidden[tokens].any():
            yield f"{prefix}.bin holds special tokens"
            return


def show_samples(directory: Path | str, num_rows: int, sequence_length: int = 128) -> Iterator[str]:
    """Rows of the training split as text, whole words masked, packed.

    A masked token reads {was}, one replaced at random {was>became}, one chosen but kept {was=}.
    """
    from pretrain.data.batches import TrainingData
    from pretrain.data.masking import Masking
    from pretrain.data.sampling import Sampling

    corpus = Corpus.open(directory)
    masking, sampling = Masking(whole_word=True), Sampling(pack=True)
    data = TrainingData(corpus, "train", 0, sequence_length, masking, sampling=sampling)
    (batch,) = data.next(num_rows, num_rows, 0, 1)
    truth = dict(zip(batch.masked_positions.tolist(), batch.masked_ids.tolist(), strict=True))

    def name(id: int) -> str:
        token = corpus.tokenizer.id_to_token(id)
        assert token is not None, f"token {id} is not in the vocabulary"
        return token

    for row in range(num_rows):
        tokens = []
        for column, id in enumerate(batch.ids[row].tolist()):
            was = truth.get(row * sequence_length + column)
            if was is None:
                tokens += [name(id)] if id != corpus.special.pad else []
            else:
                became = "" if id == corpus.special.mask else "=" if id == was else f">{name(id)}"
                tokens.append(f"{{{name(was)}{became}}}")
        yield _joined(tokens)


def _joined(tokens: list[str]) -> str:
    """Readable: blanks where the tokens have them."""
    if any("▁" in token for token in tokens):
        return "".join(tokens).replace("{▁", " {").replace("▁", " ").strip()
    return " ".join(tokens).replace(" ##", "").replace(" {##", "{")
