"""A stage's shape is typed as BertConfig is, and is written back as it was written."""

import json

import pytest
from pydantic import ValidationError

from growth.partial_shape import PartialShape
from model.config import BertConfig
from pretrain.recipe.shape_request import ShapeRequest
from pretrain.settings.values import Share

WRITTEN = {
    "layers": "25%",
    "heads": [4, 2],
    "hidden_dropout": 0.0,
    "sharing": None,
    "light_layers": [3, 1],
    "slimming": {"heads": 0.5},
    "low_rank": {"mlm.transform": "25%", "feedforward.input": 8},
}


def test_only_what_is_set_is_written_back_and_as_it_was():
    request = ShapeRequest.model_validate(WRITTEN)
    assert json.loads(request.model_dump_json()) == WRITTEN
    assert ShapeRequest.model_validate_json(request.model_dump_json()) == request
    assert ShapeRequest().model_dump() == {}


def test_values_have_the_types_of_the_model():
    request = ShapeRequest.model_validate(WRITTEN)
    assert request.asked["layers"] == Share(25)
    assert request.asked["heads"] == (4, 2)
    assert request.asked["slimming"].ffn == BertConfig.preset("tiny", slimming={"heads": 0.5}).slimming.ffn
    assert set(ShapeRequest.model_fields) == set(BertConfig.model_fields)
    for wrong in ({"layers": -1}, {"hidden_dropout": 1.5}, {"norm": "above"}, {"hidden_dropout": "25%"}, {"lyers": 1}):
        with pytest.raises(ValidationError):
            ShapeRequest.model_validate(wrong)


def test_shares_become_counts_of_the_model():
    shape = ShapeRequest.model_validate(WRITTEN).counted({"layers": 8, "hidden": 64})
    assert shape == PartialShape(WRITTEN | {"layers": 2, "low_rank": {"mlm.transform": 16, "feedforward.input": 8}}) | {
        "slimming": shape["slimming"]
    }
    assert shape["heads"] == (4, 2)


def test_a_partial_shape_has_the_fields_of_the_model_alone():
    shape = PartialShape(layers=2, ffn=[3, 4])
    assert shape | {"layers": 5} == {"layers": 5, "ffn": (3, 4)}
    assert shape.limited_to(("ffn", "heads")) == {"ffn": (3, 4)}
    assert not PartialShape()
    with pytest.raises(AssertionError, match="not fields of BertConfig: lyers"):
        PartialShape(lyers=2)
