"""Tags of words: whose first token is learned from, entities, what is not read."""

import numpy as np
import pytest

from pretrain.finetune.tags import Tagged, Tags, entities, entity_f1


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O B-A I-A O", [(1, 3, "A")]),
        ("B-A B-A", [(0, 1, "A"), (1, 2, "A")]),
        ("B-A I-B I-B", [(0, 1, "A"), (1, 3, "B")]),
        ("I-A O I-A", [(0, 1, "A"), (2, 3, "A")]),
        ("O O", []),
    ],
)
def test_entities(tags, found):
    assert list(entities(tags.split())) == found


def test_an_entity_counts_as_a_whole():
    true = [["B-A", "I-A", "O"], ["B-B", "O", "O"]]
    assert entity_f1(true, true) == 1
    assert entity_f1([["B-A", "O", "O"], ["B-B", "O", "O"]], true) == 0.5


class Encoded(dict):
    def word_ids(self, row):
        return [None, 0, 0, 1, None]


class Tokenizer:
    """Its first word has two tokens, and of three words it reads two."""

    model_input_names = ("input_ids",)

    def num_special_tokens_to_add(self):
        return 2

    def __call__(self, words, **_):
        return Encoded(input_ids=[[2, 5, 6, 7, 3]] * len(words))


def test_a_word_is_tagged_at_its_first_token_and_what_is_not_read_is_wrong():
    example = Tagged(("Jane", "sings", "here"), ("B-A", "O", "O"))
    problem = Tags(("B-A", "O"), [example], [example], "dev", 5)
    (features,) = problem.training_features(Tokenizer())
    assert features["labels"] == [-100, 0, -100, 1, -100]
    logits = np.full((1, 5, 2), -1.0)
    logits[0, [0, 1, 2, 3], [0, 0, 1, 1]] = 1
    assert problem.score(Tokenizer(), lambda _: (logits,)) == {"entity_f1": 1.0, "accuracy": pytest.approx(2 / 3)}
