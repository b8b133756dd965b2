"""From a text and the hours a machine has to a recipe: `plan --suggest`. No torch."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.errors import UserError
from pretrain.data import Corpus
from pretrain.recipe import Run, load_recipe, resolve
from pretrain.runs.forecast import MANY_EPOCHS, Speed, in_words, plain, run_flops, short, steps_of, tokens_read

BYTES_PER_TOKEN = 4
"""Of English text under a WordPiece vocabulary (measured: 10 MB of Wikipedia, 2.4 M tokens of 8,192)."""

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
TEXTS = {".txt": 1.0, ".jsonl": 1.0, ".parquet": 2.0, ".gz": 3.0, ".bz2": 4.0, ".xz": 4.0, ".zst": 3.0}
"""Suffixes of texts, and how much more a file holds than its size says, about."""

SMALL_VOCABULARY_BYTES = 500 * 10**6
"""Up to this much text a small vocabulary suits (docs/getting-started.md)."""

BY_THE_CLOCK = {False: "laptop", True: "academic-base"}
"""Recipes whose length is in hours, without and with GPUs: they fit any budget."""

BY_STEPS = ("compound-base", "espalier-large", "lamb-large")
"""Recipes of a fixed length for GPUs, from the cheapest to the dearest."""


@dataclass(frozen=True)
class Text:
    """What there is to train on."""

    name: str
    tokens: float
    how_known: str
    corpus: str
    """Where it is prepared, or will be."""
    sources: str = ""
    """What `prepare` reads; empty where that has been done."""
    vocab_size: int | None = None
    small: bool = False

    @classmethod
    def of(cls, given: str) -> "Text":
        """A prepared corpus, texts on disk, or a size such as 50MB."""
        path = Path(given)
        if (path / "manifest.json").is_file() or path.suffix in (".yaml", ".yml"):
            corpus = Corpus.open(path)
            parts = zip(corpus.weights.values(), corpus.manifests, strict=True)
            tokens = sum(weight * manifest["splits"]["train"]["num_tokens"] for weight, manifest in parts)
            return cls(given, tokens, "counted when it was prepared", given, vocab_size=corpus.vocab_size)
        if path.exists():
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            size = sum(TEXTS.get(file.suffix, 0) * file.stat().st_size for file in files)
            if not size:
                raise UserError(f"--suggest {given} holds no text: it needs files of {', '.join(TEXTS)}")
        elif found := re.fullmatch(r"([\d.]+) ?([KMGT]B)", given.strip(), re.IGNORECASE):
            size = float(found[1]) * UNITS[found[2].upper()]
        else:
            raise UserError(f"--suggest {given!r} is neither a folder nor a size; write a text's folder, or 50MB, 16GB")
        known = f"{short(size)}B at {BYTES_PER_TOKEN} bytes a token, as English has"
        sources = given if path.exists() else "my-texts/"
        return cls(given, size / BYTES_PER_TOKEN, known, "corpora/mine", sources, small=size <= SMALL_VOCABULARY_BYTES)


@dataclass(frozen=True)
class Suggestion:
    """A recipe, and what is known of it."""

    recipe: str
    overrides: tuple[str, ...]
    run: Run
    reason: str


def suggest(text: Text, hours: float, num_ranks: int, has_gpus: bool, flops_per_second: float) -> Suggestion:
    """The dearest recipe that these hours allow, and that does not read the text too often."""
    budget = 3600 * hours * flops_per_second
    for recipe in reversed(BY_STEPS if has_gpus else ()):
        run = _resolved(recipe, text, num_ranks)
        fits, epochs = run_flops(run) <= budget, tokens_read(run, steps_of(run, None)) / text.tokens
        if fits and epochs <= MANY_EPOCHS:
            return Suggestion(recipe, (), run, "the dearest recipe for GPUs that the hours and the text allow")
    recipe = BY_THE_CLOCK[has_gpus]
    run = _resolved(recipe, text, num_ranks, f"hours={hours:g}")
    epochs = tokens_read(run, steps_of(run, flops_per_second)) / text.tokens
    reason = "by the clock: all of the hours"
    if epochs > MANY_EPOCHS:
        hours = float(f"{hours * MANY_EPOCHS / epochs:.2g}")
        run = _resolved(recipe, text, num_ranks, f"hours={hours:g}")
        reason = f"by the clock: {hours:g} hours, for more would read the text over {MANY_EPOCHS} times"
    return Suggestion(recipe, (f"hours={hours:g}",), run, reason)


def suggestion_lines(text: Text, found: Suggestion, speed: Speed, where: str, nproc: int | None) -> Iterator[str]:
    """What was found and where it is known from; the last line is the command. `where`: what the speed is that of."""
    num_steps = steps_of(found.run, speed.flops_per_second)
    read = tokens_read(found.run, num_steps)
    seconds = found.run.end if found.run.unit == "seconds" else run_flops(found.run) / speed.flops_per_second
    yield f"text     {text.name}: about {short(text.tokens)} tokens ({text.how_known})"
    ranks = f"{found.run.num_ranks} process{'es'[: 2 * (found.run.num_ranks > 1)]}"
    yield f"machine  {ranks}, {speed.flops_per_second:.3g} FLOP/s together ({where})"
    yield f"recipe   {found.recipe}: {found.run.stages[-1].config.summary()}, {found.reason}"
    yield (
        f"expect   {in_words(seconds)}, {short(read)} tokens, {plain(read / text.tokens)} epochs; "
        "another shape than the one measured changes the speed"
    )
    if text.sources:
        vocabulary = " --vocab-size 8192" if text.small else ""
        yield f"         ./launch.sh prepare {text.sources} --output {text.corpus}{vocabulary}"
    changes = "".join(f" --set {change}" for change in (f"data.corpus={text.corpus}", *found.overrides))
    yield f"         ./launch.sh train {found.recipe}{changes}" + (f" --nproc {nproc}" if nproc else "")


def _resolved(recipe: str, text: Text, num_ranks: int, *overrides: str) -> Run:
    return resolve(load_recipe(recipe, overrides), text.vocab_size or (8192 if text.small else None), num_ranks)
