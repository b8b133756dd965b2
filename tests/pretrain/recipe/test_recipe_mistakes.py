"""What a slip of the hand leaves in a recipe, in every place where Python would stumble over it: one line each."""

import re

import pytest

from model.errors import UserError
from pretrain.engine.config_file import load_engine_file
from pretrain.recipe import load_recipe, resolve

VALUES = """\
steps: 1000
model: {preset: base}
data: {corpus: corpora/none}
optimizer: {lr: 1e-3}
batch: {global: 8}
"""
STAGES = VALUES + "stages:\n  - {name: a, steps: 500}\n  - {name: b}\n"
CLOCK = STAGES.replace("steps: 1000", "hours: 2").replace("steps: 500", "hours: 1")
BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
"""Nine to the power of nine values."""


@pytest.fixture
def mistake(tmp_path, monkeypatch):
    """Reads and resolves one of the files given by name and text, in their folder, and returns what it raises."""
    monkeypatch.chdir(tmp_path)

    def read(recipe: str, **files: str) -> str:
        for file, text in files.items():
            (tmp_path / file.replace("_", ".")).write_text(text)
        with pytest.raises(UserError) as caught:
            resolve(load_recipe(recipe), None, 1)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return read


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a_yaml": "extends: compound-base\nstages: {quarter: 5}"}, "stages.quarter is 5; write the keys that change"),
        (
            {"b_yaml": VALUES + "stages: [x, y]", "a_yaml": "extends: b.yaml\nstages: {x: {steps: 5}}"},
            "stages: 'x' in the recipe below is not a stage",
        ),
        ({"a_yml": "extends: a.yml"}, "a.yml extends itself"),
        ({"mini": "extends: mini"}, "mini extends itself"),
        ({"a_yaml": "extends: b", "b": "extends: a.yaml"}, "a.yaml extends itself"),
        ({"a_yaml": "extends: ''"}, "extends is ''; name a recipe there"),
        ({"a_yaml": "extends: [base]"}, "extends is ['base']; name a recipe there"),
    ],
)  # fmt: skip
def test_recipes_over_recipes(mistake, files, message):
    name = list(files)[-1] if "b" not in files else "a_yaml"
    assert message in mistake(name.replace("_", "."), **files)


def test_a_folder_of_its_name_does_not_hide_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "compound-base"):
        (tmp_path / name).mkdir()
        assert load_recipe(name).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("? [a, b]\n: 3", "line 1: a key must be a plain word, not ['a', 'b']"),
        ("{{a: 1}: 3}", "line 1: a key must be a plain word, not {'a': 1}"),
        ("steps: !!int soon", "invalid literal for int()"),
        ("steps: \x01", "special characters are not allowed"),
        ("[" * 3000, "line 1: lists and mappings are nested too deep; 50 levels are allowed"),
        ("a: &a {b: *a}", "lists and mappings are nested too deep; 50 levels are allowed"),
        (BOMB, "its anchors make more than 100,000 values; write the values out"),
    ],
)
def test_yaml(mistake, text, message):
    assert message in mistake("a.yaml", a_yaml=text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{name: b}", "{name: b, grow: {1: {}, 2: {}}}", "names 2 operators in one mapping; write a list: [1, 2]"),
        ("preset: base", "preset: 5", "model.preset 5 is unknown; choose one of tiny"),
        ("preset: base", "preset: [large]", "model.preset ['large'] is unknown (did you mean 'large'?)"),
        ("preset: base", "preset: base, ffn_multiple: 8, ffn: lots", "model.ffn"),
        ("preset: base", "preset: base, ffn_multiple: 8, ffn: [a, b]", "model.ffn"),
        ("preset: base", "preset: tiny, heads: [[1], [2]]", "model.heads"),
        ("preset: base", "preset: tiny, heads: [1, a]", "model.heads"),
        ("preset: base", "preset: tiny, light_layers: [1, a]", "model.light_layers"),
        ("preset: base", "preset: tiny, low_rank: {1: 2, mlm.transform: 3}", "model.low_rank"),
        # numbers that are none
        ("lr: 1e-3", "lr: 1e400", "optimizer.lr is inf: input should be a finite number"),
        ("lr: 1e-3", "lr: true", "optimizer.lr is True: input should be a valid number"),
        ("preset: base", "preset: base, vocab_size: 0", "model.vocab_size is 0: input should be greater than"),
        ("preset: base", "preset: base, norm_eps: nan", "model.norm_eps"),
        ("{name: b}", "{name: b, sequence: 0%}", "stages.1.sequence: '0%' is neither a count from 1 nor a share above"),
        *(
            ("steps: 500", f"steps: 500, until: {{{rule}}}", f"stages.0.until.{message}")
            for rule, message in {
                "loss: {below: nan}": "loss.below is 'nan': input should be a valid number",
                "loss: {below: -1e400}": "loss.below is -inf: input should be a finite number",
                "loss: {below: true}": "loss.below is True: input should be a valid number",
                "hours: 1e400": "hours is inf: input should be a finite number",
                "auto: {every: 0}": "auto.every: 0 is neither a count from 1 nor a share above 0%",
                "auto: {every: 0%}": "auto.every: '0%' is neither a count from 1",
                "loss: 2.2": "loss is 2.2; write a mapping of keys: every, checks, below",
            }.items()
        ),
        ("steps: 1000", "steps: 1000\nname: ..", "name is '..': string should match pattern"),
        ("steps: 1000", f"steps: 1000\nseed: {2**64}", "seed is 18446744073709551616: input should be less than"),
        ("preset: base", "preset: base, layers: 1000000000", "layers is 1000000000: input should be less than"),
        # rows, spans and climbs
        ("steps: 1000", "steps: 1000\nsequence: 3", "stage a: sequence 3 is too short; it must be at least 4 tokens"),
        ("{name: b}", "{name: b, sequence: 3}", "stage b: sequence 3 is too short; it must be at least 4 tokens"),
        ("none}", "none, max_span: 1000000000}", "data.max_span 1000000000 is too long for rows of 128 tokens"),
        ("none}", "none, max_span: 65}", "data.max_span 65 is too long for rows of 128 tokens, of which too few"),
        ("none}", "none, max_span: 129, span_lengths: geometric}", "it may be at most 128 (10 in SpanBERT"),
        ("{name: b}", "{name: b, schedule: {rewarm: 80%}}", "stage b: schedule.rewarm (800 steps) is longer than the"),
        # words
        ("batch: {global: 8}", "batch: {global: 8}\nbatch-size: 4", "unknown key batch-size (did you mean 'batch'?)"),
        ("{lr: 1e-3}", "{lr: 1e-3, learning-rate: 4}", "unknown key optimizer.learning-rate"),
        ("steps: 1000", f"steps: 1000\nprecision: {'x' * 10_000}", f"precision is '{'x' * 199}...: input should be"),
        ("steps: 1000", "steps: 1000\ncompile: Auto", "compile is 'Auto': input should be 'auto', true or false"),
        ("steps: 1000", "steps: 1000\ncompile: [1]", "compile is [1]: input should be 'auto', true or false"),
        ("steps: 500", "steps: 500, split: true", "stages.0.split is True; write a mapping of keys: every, checks"),
        ("{name: b}", "{name: b, shape: {layers: 120%}}", "1.shape.layers: '120%' is not a share from 0%"),
        ("{name: b}", "{name: b, grow: {mask_growth: {steps: 500%}}}", "mask_growth.steps: '500%' is not a share"),
        ("{name: b}", "{name: b, shape: {light_layers: 100%}}", "light_layers is '100%', but the lowest layer has to"),
        ("preset: base", "layers: 50%", "model.layers is '50%', a share of model.layers"),
        (
            "preset: base",
            "preset: base, low_rank: {feedforward.inptu: 4}",
            "is 'feedforward.inptu' (did you mean 'feedforward.input'?)",
        ),
    ],
)  # fmt: skip
def test_values(mistake, old, new, message):
    assert old in STAGES
    assert message in mistake("a.yaml", a_yaml=STAGES.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hours: 1}", "hours: 1, until: {loss: {below: 2}}}", "stage a: until: 1% of a run measured in hours"),
        ("{name: b}", "{name: b, grow_when: auto}", "stage a: until: 1% of a run measured in hours"),
        (
            "{name: b}",
            "{name: b, schedule: {rewarm: 100}}",
            "stage b: schedule.rewarm: this run is measured in hours, so 100 steps",
        ),
        (
            "{name: b}",
            "{name: b, schedule: {restart: {warmup: 100}}}",
            "stage b: schedule.restart.warmup: this run is measured in hours",
        ),
        ("batch:", "schedule: {hold: 100}\nbatch:", "schedule.hold: this run is measured in hours"),
    ],
)
def test_steps_in_a_run_of_hours(mistake, old, new, message):
    assert old in CLOCK
    assert mistake("a.yaml", a_yaml=CLOCK.replace(old, new)).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe{", "ds.json cannot be read"),
        (b'{"zero_optimization": {"stage": 1, "reduce_bucket_size": "big"}}', 'reduce_bucket_size to "big"'),
        (b'{"zero_optimization": {"stage": 1, "reduce_bucket_size": 0}}', "reduce_bucket_size to 0"),
        (
            b'{"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": "AUTO"}}',
            "zero_optimization.stage3_param_persistence_threshold to 'AUTO': Input should be a valid integer",
        ),
        (
            b'{"zero_optimization": {"stage": 3, "stage3_param_persistance_threshold": 1}}',
            "stage3_param_persistance_threshold, which DeepSpeed does not know (did you mean "
            "'stage3_param_persistence_threshold'?)",
        ),
        (
            b'{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "gpu"}}}',
            "zero_optimization.offload_optimizer.device to 'gpu': Input should be 'none', 'cpu' or 'nvme'",
        ),
        (b'{"zero_optimization": {"stage": 1}, "fp16": true}', "fp16 to true"),
        (b'{"zero_optimization": {"stage": 1}, "bf16": [1]}', "bf16 to [1]; make it a section, or remove it"),
        (
            b'{"zero_optimization": {"stage": 1}, "fp16": {"initial_scale_pwer": 4}}',
            "fp16.initial_scale_pwer, which DeepSpeed does not know (did you mean 'initial_scale_power'?)",
        ),
        (
            b'{"zero_optimization": {"stage": 1}, "wall_clock_brakdown": true}',
            "wall_clock_brakdown, which DeepSpeed does not know (did you mean 'wall_clock_breakdown'?)",
        ),
    ],
)
def test_deepspeed_files(tmp_path, content, message):
    (tmp_path / "ds.json").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        load_engine_file(str(tmp_path / "ds.json"))


def test_what_a_deepspeed_file_leaves_open_is_left_out(tmp_path):
    file = tmp_path / "ds.json"
    file.write_text('{"fp16": null, "bf16": "auto", "zero_optimization": {"stage": 1, "reduce_bucket_size": "auto"}}')
    assert load_engine_file(str(file)) == {"zero_optimization": {"stage": 1}}
