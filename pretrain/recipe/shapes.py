"""The shape of each stage: the model's fields, what a stage changes of them, and the operators that lead there."""

from collections.abc import Mapping, Sequence
from typing import Any

from growth.operators import shapes
from growth.operators.base import Operator
from growth.partial_shape import PartialShape
from model.config import BertConfig, vocabulary_of
from model.errors import UserError
from model.variants.inner_heads import HEADS
from pretrain.recipe.load import explained
from pretrain.recipe.operators import read_operators
from pretrain.recipe.schema import Recipe, Stage


def first_shape(recipe: Recipe, stage: Stage, values: dict[str, Any], corpus_vocab_size: int | None) -> BertConfig:
    """From the fields of the model and of the first stage. `corpus_vocab_size` None: the recipe's own, or that of the
    published model."""
    if stage.grow:
        raise UserError("the first stage has no stage before it to grow from; remove its grow")
    vocab_size = values.get("vocab_size", corpus_vocab_size)
    if corpus_vocab_size is not None and vocab_size != corpus_vocab_size:
        raise UserError(
            f"model.vocab_size {vocab_size} is not the corpus's {corpus_vocab_size} ({recipe.data.corpus}); "
            "remove it from the recipe, or prepare the corpus with that vocabulary"
        )
    pairs = recipe.data.sentence_pairs
    values = {"sentence_head": pairs != "none", **values}
    if pairs != "none" and not values["sentence_head"]:
        raise UserError(f"data.sentence_pairs {pairs} needs the sentence head; remove model.sentence_head")
    values["vocab_size"] = vocabulary_of(recipe.model.get("preset")) if vocab_size is None else vocab_size
    with explained(BertConfig, section="model"):
        return BertConfig.model_validate(values)


def next_shape(
    before: BertConfig, grow: Sequence[Mapping[str, Any]], shape: PartialShape
) -> tuple[tuple[Operator, ...], BertConfig]:
    """The operators of a stage, and the shape they lead to."""
    if "vocab_size" in shape:
        raise UserError("shape.vocab_size: the vocabulary belongs to the corpus and cannot change between stages")
    moved = dict.fromkeys(HEADS) if "layers" in shape else {}  # the operators say which layers these then read
    with explained(BertConfig, section="shape"):
        before.replace(**{**moved, **shape})
    operators = read_operators(grow, before, shape)
    return operators, shapes(before, operators, shape)[-1]
