"""SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018): the answer is a span of the text, or there is no answer."""

import json
import re
import string
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from model.errors import UserError
from pretrain.finetune.fit import Features, Predict
from pretrain.finetune.tasks import SquadTask
from pretrain.finetune.text import check_length, read_text

STEP = 128
"""Tokens from the start of one window of a long text to that of the next (Devlin et al. 2018)."""
MAX_QUESTION_TOKENS = 64
"""Longer questions are cut off, as in Devlin et al. 2018."""
MAX_ANSWER_TOKENS = 30
NUM_CANDIDATES = 20
"""Number of best starts and best ends per window that are combined into candidate spans."""


@dataclass(frozen=True)
class Question:
    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    """The annotators' answers; empty if the text has no answer (SQuAD 2.0)."""
    start: int | None
    """First and last character of the first answer; None if the text does not have it at that place."""

    @classmethod
    def of(cls, id: str, question: str, context: str, answers: Sequence[str], starts: Sequence[int]) -> "Question":
        is_there = bool(answers) and starts[0] >= 0 and context.startswith(answers[0], starts[0])
        return cls(id, question.strip(), context, tuple(answers), starts[0] if is_there else None)


Window = tuple[Question, Features, dict[int, tuple[int, int]]]
"""Its question, its features, and {token: its characters} of those tokens that are text."""


class Squad:
    """One version of SQuAD with its data. Made by `Squad.open`."""

    architecture = "AutoModelForQuestionAnswering"
    labels: tuple[str, ...] = ()
    num_outputs = 2

    def __init__(
        self, train: list[Question], dev: list[Question], max_length: int, scored_on: str = "the dev set"
    ) -> None:
        """`scored_on`: what `dev` contains, in words."""
        self.train, self.dev, self.max_length, self.scored_on = train, dev, max_length, scored_on
        self.has_unanswerable = any(not question.answers for question in dev)
        self._dev_windows: dict[Any, list[Window]] = {}
        """Cached by tokenizer: making them takes long, and every seed and setting uses the same."""

    @classmethod
    def open(cls, task: SquadTask, data: Path | None, max_length: int) -> "Squad":
        """From the JSON files in `data`, else from the Hub.

        Raises UserError when there is neither, and for files that are not as SQuAD's.
        """
        files = [f"{split}-{task.version}.json" for split in ("train", "dev")]
        if data is None:
            train, dev = _hub_questions(task, " and ".join(files))
        else:
            missing = [file for file in files if not (data / file).is_file()]
            if missing:
                raise UserError(f"{data} has no {missing[0]}; name a folder with SQuAD's files by --data")
            train, dev = (_questions(data / file) for file in files)
        return cls(aligned(train, files[0]), dev, max_length)

    def training_features(self, tokenizer: Any) -> list[Features]:
        """Windows of the texts, each with the places of the answer's first and last token; [CLS] where it has none.

        Raises UserError where the longest question, of all to train and to score on, leaves no room for text.
        """
        num_special = tokenizer.num_special_tokens_to_add(pair=True)
        longest = max(num_tokens for _, num_tokens in _cut_questions(tokenizer, [*self.train, *self.dev]))
        taken = longest + num_special
        check_length(self.max_length, taken + 1, f"a question of {longest} tokens and {num_special} special ones")
        features = []
        for question, window, offsets in self._windows(tokenizer, self.train):
            start, end = 0, 0
            if question.start is not None and offsets:
                last = question.start + len(question.answers[0])
                inside = [place for place, (a, b) in offsets.items() if a < last and b > question.start]
                first_token, last_token = min(offsets), max(offsets)
                if inside and offsets[first_token][0] <= question.start and last <= offsets[last_token][1]:
                    start, end = inside[0], inside[-1]
            features.append({**window, "start_positions": start, "end_positions": end})
        return features

    def score(self, tokenizer: Any, predict: Predict) -> dict[str, float]:
        """Exact match and F1, in percent, by the best span of each question's windows."""
        if tokenizer not in self._dev_windows:
            self._dev_windows[tokenizer] = list(self._windows(tokenizer, self.dev))
        windows = self._dev_windows[tokenizer]
        starts, ends = predict([window for _, window, _ in windows])
        best: dict[str, tuple[float, str]] = {}
        null: dict[str, float] = {}
        for (question, _, offsets), start, end in zip(windows, starts, ends, strict=True):
            null[question.id] = min(null.get(question.id, np.inf), float(start[0] + end[0]))
            score, text = _best_span(question.context, offsets, start, end)
            if question.id not in best or score > best[question.id][0]:
                best[question.id] = score, text
        answers = {id: "" if self.has_unanswerable and null[id] > score else text for id, (score, text) in best.items()}
        return evaluate(self.dev, answers)

    def finish(self, model: nn.Module) -> None:
        """Nothing is to be done before the model is saved."""

    def _windows(self, tokenizer: Any, questions: Sequence[Question]) -> Iterator[Window]:
        for question, (text, num_tokens) in zip(questions, _cut_questions(tokenizer, questions), strict=True):
            room = self.max_length - num_tokens - tokenizer.num_special_tokens_to_add(pair=True)
            encoded = tokenizer(
                text,
                question.context,
                truncation="only_second",
                max_length=self.max_length,
                # What neighbours share. Windows too short for the step move by half, lest answers fall between them.
                stride=max(room - STEP, room // 2),
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            for row, spans in enumerate(encoded["offset_mapping"]):
                window = {name: encoded[name][row] for name in tokenizer.model_input_names}
                sides = encoded.sequence_ids(row)
                yield question, window, {place: span for place, span in enumerate(spans) if sides[place] == 1}


def _cut_questions(tokenizer: Any, questions: Sequence[Question]) -> list[tuple[str, int]]:
    """The question, and its number of tokens."""
    texts = [question.question for question in questions]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    kept = [spans[:MAX_QUESTION_TOKENS] for spans in encoded["offset_mapping"]]
    return [(text[: spans[-1][1] if spans else 0], len(spans)) for text, spans in zip(texts, kept, strict=True)]


def _best_span(context: str, offsets: dict, start: np.ndarray, end: np.ndarray) -> tuple[float, str]:
    best = (-np.inf, "")
    ends = [place for place in np.argsort(-end)[:NUM_CANDIDATES].tolist() if place in offsets]
    for first in np.argsort(-start)[:NUM_CANDIDATES].tolist():
        for last in ends:
            if first in offsets and first <= last < first + MAX_ANSWER_TOKENS and start[first] + end[last] > best[0]:
                best = float(start[first] + end[last]), context[offsets[first][0] : offsets[last][1]]
    return best


# ---- the official numbers ----


def evaluate(questions: Sequence[Question], answers: dict[str, str]) -> dict[str, float]:
    """Exact match and F1 in percent, the best over the annotators' answers; a question left out counts as wrong.

    Where questions may have no answer, saying nothing is the right answer to those, and no annotator's (SQuAD 2.0).
    """
    has_unanswerable = any(not question.answers for question in questions)
    exact = f1 = 0.0
    for question in questions:
        if question.id not in answers:
            continue
        answer, true = normalize(answers[question.id]), [normalize(text) for text in question.answers]
        if has_unanswerable:
            true = [text for text in true if text]
        exact += answer in true if true else not answer
        f1 += max(overlap_f1(answer, other) for other in true) if true else not answer
    return {"exact_match": 100 * exact / len(questions), "f1": 100 * f1 / len(questions)}


def overlap_f1(answer: str, true: str) -> float:
    """F1 of the words that two normalized texts have in common."""
    num_common = (Counter(answer.split()) & Counter(true.split())).total()
    return 2 * num_common / (len(answer.split()) + len(true.split())) if num_common else 0.0


def normalize(text: str) -> str:
    """Lower case, without punctuation, articles and repeated blanks."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


# ---- data ----


def _questions(path: Path) -> list[Question]:
    text = read_text(path)
    try:
        questions = [
            Question.of(
                *(item["id"], item["question"], paragraph["context"]),
                *([answer[key] for answer in item["answers"]] for key in ("text", "answer_start")),
            )
            for article in json.loads(text)["data"]
            for paragraph in article["paragraphs"]
            for item in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is not in SQuAD's format ({reason}); give the official file") from None
    if not questions:
        raise UserError(f"{path} holds no questions; give the official file")
    return questions


def _hub_questions(task: SquadTask, files: str) -> list[list[Question]]:
    from pretrain.finetune.hub import load

    dataset = load(task.hub_name, None, files)
    return [
        [
            Question.of(
                *(row["id"], row["question"], row["context"]),
                *(row["answers"][key] for key in ("text", "answer_start")),
            )
            for row in dataset[split]
        ]
        for split in ("train", "validation")
    ]


def aligned(questions: list[Question], file: str) -> list[Question]:
    """Those to train on. Skips questions whose answer is not exactly at its answer_start, and prints their number.

    Stricter than Google's run_squad.py, which looks for the answer, kinds of blanks aside, anywhere in the
    blank-separated words that those characters touch.
    """
    aligned = [question for question in questions if not question.answers or question.start is not None]
    if not aligned:
        raise UserError(f"no answer in {file} is at its answer_start in the text; give the official file")
    if len(aligned) < len(questions):
        num_left_out = f"{len(questions) - len(aligned)} of {len(questions)} questions"
        print(f"espalier: {num_left_out} of {file} are skipped: their answers are not at answer_start", file=sys.stderr)
    return aligned
