"""Every DeepSpeed file that ships is valid, leaves the recipe's keys alone, and is explained in its README."""

import json

import pytest
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model.errors import UserError
from pretrain.engine.config_file import OWNED_BY_RECIPE, UsualZero, load_engine_file, offloads_optimizer
from tests.support.home import HOME

FOLDER = HOME / "ds_configs"
FILES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_file_is_accepted_and_does_what_its_name_says(file):
    config = load_engine_file(f"ds_configs/{file.name}")
    assert config["zero_optimization"]["stage"] == int(file.stem[len("zero")])
    assert offloads_optimizer(config) == file.stem.endswith("_offload")


OFFLOAD = st.fixed_dictionaries({"device": st.sampled_from(["cpu", "none"])}, optional={"pin_memory": st.booleans()})
USUAL = st.fixed_dictionaries(
    {"stage": st.integers(0, 3)},
    optional={
        name: {int: st.integers(0, 10**12), bool: st.booleans()}.get(field.annotation, OFFLOAD)
        for name, field in UsualZero.model_fields.items()
        if name != "stage"
    },
)


@given(USUAL)
def test_deepspeed_accepts_what_it_is_not_asked_about(section):
    try:
        UsualZero.model_validate(section)
    except ValidationError:
        return  # DeepSpeed is asked
    DeepSpeedZeroConfig(**section)


def test_readme_explains_every_key_and_only_those():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    used = {key for file in FILES for key in _keys(json.loads(file.read_text(encoding="utf-8")))}
    explained = {line.split("`")[1] for line in readme.splitlines() if line.startswith("| `") and ".json" not in line}
    assert explained == used


def _keys(config: dict, prefix: str = "") -> set[str]:
    keys = set()
    for key, value in config.items():
        keys |= _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return keys


@pytest.mark.parametrize("key", OWNED_BY_RECIPE)
def test_a_file_that_contradicts_the_recipe_is_named_with_its_key(tmp_path, key):
    config: dict = {"zero_optimization": {"stage": 1}}
    section, _, leaf = key.rpartition(".")
    (config.setdefault(section, {}) if section else config)[leaf] = 7
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"mine\.json sets {key} to 7, but the recipe owns it"):
        load_engine_file(str(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[]", "has to be a JSON object"),
        ('{"zero_optimization": {"stage": 4}}', "stage to 4; choose"),
    ],
)
def test_an_unusable_file_is_named(tmp_path, text, message):
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_engine_file(str(file))


def test_missing_file_is_named():
    with pytest.raises(UserError, match="ds_configs/zero9.json does not exist"):
        load_engine_file("ds_configs/zero9.json")
