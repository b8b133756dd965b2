import pydantic
import pytest

from model.config import PRESETS, BertConfig
from model.errors import UserError
from tests.support.running import small_config


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        (dict(heads=(4, 4)), dict(heads=4)),
        (dict(heads=[4, 4]), dict(heads=4)),
        (dict(ffn=(32, 32)), dict(ffn=32)),
        (dict(sharing=(0, 1)), dict(sharing=None)),
        (dict(sharing=2), dict(sharing=None)),
        (dict(sharing=(0, 0)), dict(sharing=1)),
        (dict(layers=4, sharing=(0, 1, 0, 1)), dict(layers=4, sharing=2)),
    ],
)
def test_equal_models_have_equal_configs(given, canonical):
    assert small_config(**given) == small_config(**canonical)
    assert hash(small_config(**given)) == hash(small_config(**canonical))


def test_head_dim_defaults_to_an_even_split_of_hidden():
    assert BertConfig.preset("base").head_dim == 64
    assert small_config().head_dim == 6
    assert small_config(heads=(2, 4)).head_dim == 6


def test_blocks_of_a_sharing_pattern():
    config = small_config(layers=6, sharing=(0, 0, 1, 1, 0, 2), ffn=(8, 8, 16, 16, 8, 32))
    assert config.num_blocks == 3
    assert [config.layers_of(block) for block in range(3)] == [[0, 1, 4], [2, 3], [5]]
    assert [config.block_ffn(block) for block in range(3)] == [8, 16, 32]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(hidden=25), "hidden 25 is not a multiple of heads 4"),
        (dict(heads=(4, 4, 2)), "heads lists 3 values for 2 layers"),
        (dict(ffn=(4,)), "ffn lists 1 values for 2 layers"),
        (dict(sharing=(0, 0, 0)), "sharing lists 3 values for 2 layers"),
        (dict(sharing=(0, 2)), r"sharing \[0, 2\] skips a block"),
        (dict(sharing=1, heads=(4, 2)), r"layers 0 and 1 share a block, but heads \(4, 2\) makes them different"),
        (dict(layers=0, heads=(), head_dim=6), "heads lists 0 values for 0 layers; give one each, or one number"),
        (dict(layers=0, sharing=1), "sharing is for layers, and there are 0"),
        (dict(layers=0, frozen_layers=1), "frozen_layers 1 leaves none of 0 layers to train"),
        (dict(layers=0, light_layers=(1,)), "light_layers is for layers, and there are 0"),
        (dict(layers=0, masked={"hidden": 12}), "masked is for layers, and there are 0"),
        (dict(layers=0, pool_window=2), "pool_window is for layers, and there are 0"),
        (dict(layers=0, sub_models=1), "sub_models is for layers, and there are 0"),
    ],
)
def test_inconsistent_shapes_are_refused(changes, message):
    with pytest.raises(UserError, match=message) as error:
        small_config(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [dict(layers=-1), dict(hidden_dropout=1.0), dict(norm="both"), dict(headz=3)])
def test_bad_values_are_refused(changes):
    with pytest.raises(pydantic.ValidationError):
        small_config(**changes)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match=r"'larg' is unknown \(did you mean 'large'\?\); choose one of tiny, mini"):
        BertConfig.preset("larg")


def test_presets_take_overrides():
    assert all(BertConfig.preset(name).layers == PRESETS[name]["layers"] for name in PRESETS)
    assert BertConfig.preset("tiny", norm="pre").norm == "pre"


def test_replace_validates_again():
    assert small_config().replace(layers=4).layers == 4
    with pytest.raises(UserError, match="ffn lists 2 values for 4 layers"):
        small_config(ffn=(8, 16)).replace(layers=4)


def test_initializer_std_scales_with_width():
    assert BertConfig.preset("base").std == pytest.approx(0.02)
    assert small_config(initializer_std=0.3).std == 0.3
    assert BertConfig.preset("base", hidden=192, head_dim=16).std == pytest.approx(0.04)
