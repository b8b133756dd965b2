"""What the demo shows at its end: `python -m pretrain.use.demo RUN_FOLDER`.

Everything is read from the run's folder: how the loss fell from stage to stage, how that compares with a model that
knows only how frequent tokens are, and words that the trained model writes into text it has not seen.
"""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pretrain.data import Corpus, Vocabulary, unigram_baseline
from pretrain.data.hashing import hash_of
from pretrain.recipe.schema import Recipe
from pretrain.runs.folder import RunFolder
from pretrain.runs.history import History
from pretrain.use.fill import Filler, blank_id
from pretrain.use.trained import open_corpus, open_trained

NUM_SHOWN = 3
NUM_GUESSES = 3
NUM_SCORED = 128
WORD_LETTERS = range(4, 9)
TABLE: dict[str, Any] = dict(box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
INDENT = (0, 0, 0, 2)


def show(folder: Path) -> None:
    run_folder = RunFolder(folder.resolve())
    summary = json.loads(run_folder.summary.read_text("utf-8"))
    trained = open_trained(folder)
    corpus = open_corpus(trained.run, None, folder)
    recipe = Recipe.model_validate(trained.run["recipe"])
    sequence = trained.run["sequence"]

    console = Console(highlight=False)
    console.print()
    console.print(stage_table(summary))
    console.print(validation_table(summary, run_folder, corpus, recipe, sequence))
    words = list(islice(held_out_words(corpus, sequence - 2), NUM_SCORED))
    show_guesses(console, Filler(trained.model, corpus), words)
    for label, value in {
        "run folder": run_folder.path,
        "loss curve": run_folder.plot,
        "try it": f'./launch.sh fill {run_folder.path} "The people of the United [MASK] are free."',
    }.items():
        console.print(f"{label:12}{value}", soft_wrap=True)


def stage_table(summary: dict) -> Table:
    table = Table("stage", "shape", title="Training", **TABLE)
    for heading in ("steps", "loss", "tokens/s"):
        table.add_column(heading, justify="right")
    for stage in summary["stages"]:
        numbers = f"{stage['steps']:,}", f"{stage['loss']:.3f}", f"{stage['tokens_per_second']:,.0f}"
        table.add_row(stage["name"], stage["shape"], *numbers)
    return table


def validation_table(summary: dict, run_folder: RunFolder, corpus: Corpus, recipe: Recipe, sequence: int) -> Table:
    """Loss and accuracy on masked tokens of held-out text, before and after, and the unigram predictor's."""
    before = History.read(run_folder.path).events("validation")[0]
    data = recipe.data
    unigram = unigram_baseline(corpus, sequence, data.masking, recipe.validation.rows, data.sampling)
    rows = {
        "before training": (before["valid_loss"], before["valid_accuracy"]),
        "knowing only how frequent tokens are": unigram,
        "after training": (summary["valid_loss"], summary["valid_accuracy"]),
    }
    table = Table("held-out text", title="Masked tokens", **TABLE)
    table.add_column("loss (nats)", justify="right")
    table.add_column("accuracy", justify="right")
    for name, (loss, accuracy) in rows.items():
        table.add_row(name, f"{loss:.3f}", f"{accuracy:.1%}")
    return table


def show_guesses(console: Console, filler: Filler, words: list["HeldOutWord"]) -> None:
    """Some sentences with the model's best guesses at a masked word, and how often the best one is right."""
    guesses = guess_words(filler, words)
    console.print("[bold]Words masked in held-out text[/]")
    for word, (best, *others) in islice(zip(words, guesses, strict=True), NUM_SHOWN):
        before, after = word.surroundings(filler.vocabulary)
        console.print(Padding(Text.assemble(before, ("_" * len(word.text), "bold"), after), INDENT))
        runners_up = ", ".join(f"{text} {probability:.0%}" for probability, text in others)
        console.print(
            Text.assemble(
                ("      truth ", "dim"), word.text, ("   guess ", "dim"), (f"{best[1]} {best[0]:.0%}", "bold green"),
                (f", then {runners_up}", "dim"),
            )
        )  # fmt: skip
    num_right = sum(word.text == best[1] for word, (best, *_) in zip(words, guesses, strict=True))
    console.print(
        f"Of {len(words)} such words the first guess is right for {num_right} ({num_right / len(words):.0%}).\n"
    )


# --- words to guess -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOutWord:
    """A word of a sentence of the validation split: tokens first .. last - 1."""

    sentence: tuple[int, ...]
    first: int
    last: int
    text: str

    def masked(self, mask: int) -> list[int]:
        return [*self.sentence[: self.first], *[mask] * (self.last - self.first), *self.sentence[self.last :]]

    def surroundings(self, vocabulary: Vocabulary) -> tuple[str, str]:
        """The text before and after the word, with the blanks that WordPiece puts around apostrophes taken out."""
        before, after = (
            vocabulary.tokenizer.decode(list(part)).replace(" ' ", "'").replace("- -", "--")
            for part in (self.sentence[: self.first], self.sentence[self.last :])
        )
        return f"{before.rstrip()} ", f" {after}" if after[:1].isalnum() else after


def held_out_words(corpus: Corpus, longest: int) -> Iterator[HeldOutWord]:
    """One word of medium length in every sentence of the validation split that has one."""
    for sentence in held_out_sentences(corpus, longest):
        words = [word for word in words_of(corpus, sentence) if len(word.text) in WORD_LETTERS]
        if words:
            yield words[int(hash_of(*sentence)[0] % np.uint64(len(words)))]


def held_out_sentences(corpus: Corpus, longest: int) -> Iterator[tuple[int, ...]]:
    """Sentences of longest / 4 .. longest tokens that begin with a word, each once, in an order fixed by hashing."""
    seen = set()
    for shard in corpus.split("valid").shards:
        lengths = np.asarray(shard.sentence_lengths)
        fitting = np.flatnonzero((lengths <= longest) & (lengths >= longest // 4))
        for number in fitting[np.argsort(hash_of(fitting))]:
            start = int(shard.sentence_starts(number))
            sentence = tuple(shard.tokens[start : start + int(lengths[number])].tolist())
            if sentence not in seen and corpus.tokenizer.decode(list(sentence))[:1].isalnum():
                seen.add(sentence)
                yield sentence


def words_of(corpus: Corpus, sentence: tuple[int, ...]) -> list[HeldOutWord]:
    """Its words, without the first: those in the vocabulary, or of characters the letters after the blank."""
    blank, words = blank_id(corpus), []
    opens = np.flatnonzero(corpus.word_starts[list(sentence)]).tolist()
    for first, last in zip(opens[1:], [*opens[2:], len(sentence)], strict=True):
        if blank is None and last - first > 1:
            continue
        first += sentence[first] == blank
        while last > first and not (corpus.tokenizer.id_to_token(sentence[last - 1]) or "").isalpha():
            last -= 1  # a full stop or comma after the word
        text = corpus.tokenizer.decode(list(sentence[first:last]))
        if text.isalpha():
            words.append(HeldOutWord(sentence, first, last, text))
    return words


def guess_words(filler: Filler, words: list[HeldOutWord]) -> list[list[tuple[float, str]]]:
    """For every word the model's guesses, best first: (probability, text)."""
    beams = filler.fill([word.masked(filler.vocabulary.special.mask) for word in words], NUM_GUESSES)
    decode = filler.vocabulary.tokenizer.decode
    return [
        [(math.exp(guess.log_probability), decode(list(guess.ids[word.first : word.last]))) for guess in beam]
        for word, beam in zip(words, beams, strict=True)
    ]


if __name__ == "__main__":
    show(Path(sys.argv[1]))
