"""SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018): the answer is a span of the text, or there is none."""

import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.errors import UserError
from pretrain.finetune.fit import Features, Predict
from pretrain.finetune.tasks import SquadTask

STRIDE = 128
"""Tokens that neighbouring windows of a long text share (Devlin et al. 2018)."""
MAX_ANSWER_TOKENS = 30
NUM_CANDIDATES = 20
"""Starts and ends of each window that are tried with each other."""


@dataclass(frozen=True)
class Question:
    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    """Of the annotators; empty where the text does not answer it (SQuAD 2.0)."""
    start: int
    """Of the first answer, in characters of the text."""


class Squad:
    """One version of SQuAD with its data. Made by `Squad.open`."""

    architecture = "AutoModelForQuestionAnswering"
    num_outputs = 2

    def __init__(self, train: list[Question], dev: list[Question], max_length: int):
        self.train, self.dev, self.max_length = train, dev, max_length
        self.has_unanswerable = any(not question.answers for question in dev)

    @classmethod
    def open(cls, task: SquadTask, data: Path | None, max_length: int) -> "Squad":
        """From the JSON files in `data`, else from the Hub. Raises UserError when there is neither."""
        if data is None:
            return cls(*(list(_hub_questions(task, split)) for split in ("train", "validation")), max_length)
        files = [data / f"{split}-{task.version}.json" for split in ("train", "dev")]
        for file in files:
            if not file.is_file():
                raise UserError(f"{data} has no {file.name}; name a folder with SQuAD's files by --data")
        return cls(*(list(_questions(file)) for file in files), max_length)

    def training_features(self, tokenizer: Any) -> list[Features]:
        """Windows of the texts, each with the places of the answer's first and last token; [CLS] where it has none."""
        features = []
        for question, window, offsets in self._windows(tokenizer, self.train):
            start, end = 0, 0
            if question.answers and offsets:
                last = question.start + len(question.answers[0])
                inside = [place for place, (a, b) in offsets.items() if a < last and b > question.start]
                first_token, last_token = min(offsets), max(offsets)
                if inside and offsets[first_token][0] <= question.start and last <= offsets[last_token][1]:
                    start, end = inside[0], inside[-1]
            features.append({**window, "start_positions": start, "end_positions": end})
        return features

    def score(self, tokenizer: Any, predict: Predict) -> dict[str, float]:
        """Exact match and F1, in percent, by the best span of each question's windows."""
        windows = list(self._windows(tokenizer, self.dev))
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

    def _windows(self, tokenizer: Any, questions: Sequence[Question]) -> Iterator[tuple[Question, Features, dict]]:
        """For every window its question, its features, and {token: its characters} of those tokens that are text."""
        encoded = tokenizer(
            [question.question.strip() for question in questions],
            [question.context for question in questions],
            truncation="only_second",
            max_length=self.max_length,
            stride=min(STRIDE, self.max_length // 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for row, question_index in enumerate(encoded["overflow_to_sample_mapping"]):
            window = {name: encoded[name][row] for name in ("input_ids", "token_type_ids", "attention_mask")}
            sides = encoded.sequence_ids(row)
            offsets = {place: span for place, span in enumerate(encoded["offset_mapping"][row]) if sides[place] == 1}
            yield questions[question_index], window, offsets


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
    """F1 of the words that two normalised texts have in common."""
    num_common = (Counter(answer.split()) & Counter(true.split())).total()
    return 2 * num_common / (len(answer.split()) + len(true.split())) if num_common else 0.0


def normalize(text: str) -> str:
    """Lower case, without punctuation, articles and repeated blanks."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


# ---- data ----


def _questions(path: Path) -> Iterator[Question]:
    try:
        articles = json.loads(path.read_text("utf-8"))["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a file of SQuAD ({type(error).__name__}: {error})") from None
    for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
        for item in paragraph["qas"]:
            answers = item["answers"]
            start = answers[0]["answer_start"] if answers else 0
            texts = tuple(answer["text"] for answer in answers)
            yield Question(item["id"], item["question"], paragraph["context"], texts, start)


def _hub_questions(task: SquadTask, split: str) -> Iterator[Question]:
    from pretrain.finetune.hub import load

    for row in load(task.hub_name, None, f"train-{task.version}.json and dev-{task.version}.json")[split]:
        starts = row["answers"]["answer_start"]
        texts = tuple(row["answers"]["text"])
        yield Question(row["id"], row["question"], row["context"], texts, starts[0] if starts else 0)
