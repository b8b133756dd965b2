"""The figures of docs/results/data.md:

python -m tests.pretrain.data.benchmarks TEXT.jsonl VOCAB.txt
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from pretrain.data import Corpus, DataPosition, Masking, PrepareOptions, Sampling, TrainingData, prepare
from pretrain.data.index import RowIndex
from pretrain.data.packing import deal
from pretrain.data.text.sentences import split_sentences
from pretrain.data.text.tokenizer import load_tokenizer

ROUNDS = 3


def cpu_seconds() -> float:
    """Of this process and of the workers it has ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    function()
    return time.perf_counter() - wall, cpu_seconds() - cpu


def prepare_speed(source: Path, vocab: Path, directory: Path) -> None:
    """All of prepare, file to shards, compared with the library's tokenizing alone, alternately on the same cores."""
    texts = [json.loads(line)["text"] for line in source.open()]
    sentences = [sentence for text in texts for sentence in split_sentences(text)]
    megabytes = source.stat().st_size / 1e6
    cores = len(os.sched_getaffinity(0))
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    tokenizer = load_tokenizer(vocab, lowercase=True)
    rows = []
    for number in range(ROUNDS):
        options = PrepareOptions((str(source),), directory / str(number), vocab=vocab, num_workers=cores)
        ours = timed(lambda options=options: prepare(options))
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        by_sentence = timed(lambda: tokenizer.encode_batch_fast(sentences, add_special_tokens=False))
        by_document = timed(lambda: tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        rows.append((ours, by_sentence, by_document))
    for which, unit in ((0, "wall"), (1, "CPU")):
        speeds = [[megabytes / timing[which] for timing in row] for row in rows]
        ratios = [row[0] / max(row[1:]) for row in speeds]
        print(
            f"prepare, {cores} workers, MB/s of {unit} time; ours, library by sentence, by document: "
            f"{[[round(value, 1) for value in row] for row in speeds]}; ratio {statistics.median(ratios):.2f}"
        )
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"largest process: {peak / 1e3:.0f} MB (this one holds all texts for the library)")


def packing_fill(corpus: Corpus) -> None:
    for sequence_length in (128, 256, 512):
        for sampling in (
            Sampling(),
            Sampling(pack=True),
            Sampling(pack=True, sentence_pairs="nsp", short_probability=0.1),
        ):
            index = RowIndex(corpus.split("train"), sampling, 0, sequence_length, DataPosition())
            rows = index.take(4000)
            tokens = rows.pieces.num_tokens.sum() + sampling.num_special * len(rows.pieces)
            fill, a_row = tokens / rows.num_rows / sequence_length, len(rows.pieces) / rows.num_rows
            print(f"S {sequence_length} {sampling}: fill {fill:.4f}, {a_row:.2f} sequences a row")


def balance(corpus: Corpus) -> None:
    sampling = Sampling(short_probability=0.5)
    index = RowIndex(corpus.split("train"), sampling, 0, 512, DataPosition())
    for num_ranks in (2, 4, 8, 16):
        dealt, in_order = [], []
        for _ in range(20):
            rows = index.take(32 * num_ranks)
            tokens = np.bincount(rows.row, rows.pieces.num_tokens + 2).astype(np.int64)
            dealt.append(tokens[deal(tokens, num_ranks)].sum(1))
            in_order.append(tokens.reshape(num_ranks, -1).sum(1))
        worst = [max(hand.max() / hand.min() for hand in hands) for hands in (dealt, in_order)]
        print(f"{num_ranks} ranks of 32 rows, S 512 padded: worst max/min {worst[0]:.4f}; in order {worst[1]:.4f}")


def reading_speed(corpus: Corpus) -> None:
    for sequence_length in (128, 512):
        for sampling in (Sampling(), Sampling(pack=True), Sampling(pack=True, sentence_pairs="nsp")):
            data = TrainingData(corpus, "train", 0, sequence_length, Masking(whole_word=True), sampling=sampling)
            data.next(32, 32, 0, 1)
            seconds = []
            for _ in range(100):
                started = time.process_time()
                data.next(32, 32, 0, 1)
                seconds.append(time.process_time() - started)
            print(
                f"32 x {sequence_length} {sampling}: {statistics.median(seconds) * 1e3:.2f} ms median, "
                f"{statistics.mean(seconds) * 1e3:.2f} ms mean, {32 / statistics.mean(seconds):,.0f} rows/s"
            )


def resume_time(corpus: Corpus) -> None:
    num_documents = corpus.split("train").num_documents
    for position in (DataPosition(), DataPosition(0, num_documents // 2), DataPosition(50, num_documents * 9 // 10)):
        seconds = []
        for _ in range(5):
            started = time.process_time()
            sampling = Sampling(pack=True, sentence_pairs="nsp")
            TrainingData(corpus, "train", 0, 128, Masking(), position, sampling).next(32, 32, 0, 1)
            seconds.append(time.process_time() - started)
        print(f"start at {position}: {statistics.median(seconds) * 1e3:.1f} ms to the first batch")


def against_megatron(corpus: Corpus, directory: Path) -> None:
    from tests.support.megatron import megatron_dataset

    for whole_word in (False, True):
        with patch.object(torch.distributed, "get_rank", lambda: 0):
            theirs = megatron_dataset(corpus, directory, whole_word)
        sampling = Sampling(sentence_pairs="nsp")
        ours = TrainingData(corpus, "train", 0, 128, Masking(whole_word=whole_word), sampling=sampling)
        ratios, speeds = [], []
        for number in range(5):
            between = [time.process_time()]
            for sample in range(100 * number, 100 * number + 100):
                theirs[sample]
            between.append(time.process_time())
            for _ in range(40):
                ours.next(32, 32, 0, 1)
            between.append(time.process_time())
            speeds.append((100 / (between[1] - between[0]), 40 * 32 / (between[2] - between[1])))
            ratios.append(speeds[-1][1] / speeds[-1][0])
        their_speed, our_speed = (statistics.median(column) for column in zip(*speeds, strict=True))
        print(
            f"S 128, NSP, whole_word {whole_word}: megatron-core {their_speed:,.0f} samples/s, "
            f"ours {our_speed:,.0f}, ratio {statistics.median(ratios):.0f}"
        )


def main(source: Path, vocab: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        prepare_speed(source, vocab, Path(scratch))
        corpus = Corpus.open(Path(scratch) / "0")
        packing_fill(corpus)
        balance(corpus)
        reading_speed(corpus)
        resume_time(corpus)
        against_megatron(corpus, Path(scratch) / "cache")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
