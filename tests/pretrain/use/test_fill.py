"""Fill-mask: what is masked, in which order it is filled, and what may stand there."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from model.batch import Batch
from model.errors import UserError
from pretrain.__main__ import main
from pretrain.use.fill import Filler, encode, fill_text
from pretrain.use.trained import open_trained
from tests.support.run_on_disk import make_corpus, make_run


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("words") / "corpus")


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("characters") / "corpus", "characters", 64)


class Neighbours:
    """Stands in for a model: logits depend on the token before alone. weights: {(before, token): logit}."""

    def __init__(self, corpus, weights: dict[tuple[str, str], float]):
        id_of = corpus.tokenizer.token_to_id
        self.table = torch.zeros(corpus.vocab_size, corpus.vocab_size)
        for (before, token), logit in weights.items():
            self.table[id_of(before), id_of(token)] = logit
        self.config = SimpleNamespace(padded_vocab_size=corpus.vocab_size, max_positions=40, words_from=2)
        self.embeddings = SimpleNamespace(word=SimpleNamespace(weight=None))

    def states(self, batch: Batch, layers: set[int]) -> dict[int, Tensor]:
        assert layers == {2}
        return {2: self.table[batch.ids.roll(1, dims=1)]}  # [B, S, V]

    def mlm(self, hidden: Tensor, _) -> Tensor:
        return hidden


def test_each_choice_sees_those_before_it_and_the_surest_comes_first(characters):
    chain = {("t", "r"): 9.0, ("r", "e"): 9.0, ("e", "e"): 9.0, ("[MASK]", "a"): 1.0}
    filler = Filler(Neighbours(characters, chain), characters)
    row = characters.tokenizer.encode("near t") + [characters.special.mask] * 3
    ((guess,),) = filler.fill([row])
    assert characters.tokenizer.decode(list(guess.ids)) == "near tree"
    num_letters = sum(characters.tokenizer.id_to_token(id).isalnum() for id in range(characters.vocab_size))
    expected = 3 * (9 - math.log(math.exp(9) + num_letters - 1))
    assert guess.log_probability == pytest.approx(expected, rel=1e-3)


def test_rows_of_all_lengths_are_filled_at_once_as_alone(words, tmp_path):
    make_run(tmp_path, words)
    filler = Filler(open_trained(tmp_path).model, words)
    mask = words.special.mask
    encoded = [words.tokenizer.encode(text) for text in ("the old tree", "a cat sings")]
    rows = [[*encoded[0], mask, *encoded[1], mask], [mask, *encoded[1]], [*encoded[0], *encoded[1]]]
    together = filler.fill(rows)
    assert [[guess.ids for guess in beam] for beam in together] == [
        [guess.ids for guess in filler.fill([row])[0]] for row in rows
    ]
    assert together[2][0].ids == tuple(rows[2])


def test_only_words_are_guessed(words, characters):
    tempting = {("the", token): 20.0 for token in ("[SEP]", "[MASK]", ".", "##s")} | {("the", "cat"): 5.0}
    assert fill_text(Filler(Neighbours(words, tempting), words), "the [MASK] runs", 1)[0][1] == "the cat runs"
    tempting = {(before, token): 20.0 for before in ("▁", "o") for token in ("▁", ".")} | {("▁", "o"): 5.0}
    assert fill_text(Filler(Neighbours(characters, tempting), characters), "the [MASK].", 1)[0][1][:5] == "the o"


def test_guesses_are_the_models_likeliest_words(words, tmp_path):
    make_run(tmp_path, words)
    trained = open_trained(tmp_path)
    guesses = fill_text(Filler(trained.model, words), "the old [MASK] runs", 1000)
    probabilities = [probability for probability, _ in guesses]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert len({text for _, text in guesses}) == len(guesses) > 10


def test_a_character_model_finds_the_length_of_a_word(characters):
    spelled = {("▁", "c"): 9.0, ("c", "a"): 9.0, ("a", "t"): 9.0, ("t", "z"): 0.1}
    assert fill_text(Filler(Neighbours(characters, spelled), characters), "a [MASK] sings", 1)[0][1] == "a cat sings"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the [MASK] runs.", "▁the▁MM▁runs."),
        ("the [MASK].", "▁the▁MM."),
        ("[MASK] runs", "▁MM▁runs"),
        ("under[MASK] near", "▁underMM▁near"),
        ("[MASK] [MASK]", "▁MM▁MM"),
    ],
)
def test_masks_among_characters(characters, text, expected):
    tokens = [characters.tokenizer.id_to_token(id) for id in encode(characters, text, masks_per_word=2)]
    assert "".join(tokens).replace("[MASK]", "M") == expected


def test_masks_among_words(words):
    ids = encode(words, "The [MASK] runs near the [MASK].", masks_per_word=1)
    assert [words.tokenizer.id_to_token(id) for id in ids] == [
        "the", "[MASK]", "runs", "near", "the", "[MASK]", "."
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the cat", "has no [MASK]"),
        ("the [MASK] and [MASK]", "one [MASK] at a time"),
        ("the cat " * 20 + "[MASK]", "this model reads 38 at most"),
        (b"a\xff [MASK]".decode(errors="surrogateescape"), r"the text 'a\udcff [MASK]' is not UTF-8"),
    ],
)
def test_what_cannot_be_filled_is_explained(characters, text, message):
    with pytest.raises(UserError) as caught:
        fill_text(Filler(Neighbours(characters, {}), characters), text, 1)
    assert message in str(caught.value)


def test_the_verb_prints_guesses_and_refuses_another_vocabulary(words, characters, tmp_path, capsys):
    make_run(tmp_path, words)
    assert main(["fill", str(tmp_path), "the [MASK] sings", "--guesses", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("%  the " in line and line.endswith(" sings") for line in lines)
    with pytest.raises(UserError, match="made with another vocabulary"):
        open_trained(tmp_path, str(characters.directory))
