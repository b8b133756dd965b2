"""Starting from somebody else's checkpoint: the run begins with exactly those weights, and with nothing else of it."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import yaml
from safetensors.torch import load_file, save_file

from growth.state import TrainingState, fresh_state
from model.config import BertConfig
from model.errors import UserError
from model.parallel.layout import ParallelLayout
from pretrain.checkpoint import CheckpointStore
from pretrain.checkpoint.store import find_checkpoint
from pretrain.engine.build import EngineSettings
from pretrain.engine.move import start_engine
from pretrain.interop import huggingface_import, importing
from pretrain.interop.huggingface import export_model
from pretrain.interop.importing import check_start, import_start
from pretrain.optim.adamw import adamw
from tests.support.workers import pool

CONFIG = BertConfig(layers=2, hidden=32, heads=2, ffn=48, vocab_size=90, max_positions=16, sentence_head=True)


def weights_of(state: TrainingState) -> dict[str, torch.Tensor]:
    """This rank's weights, after a look at the rest."""
    for name, record in state.records.items():
        assert not record.exp_avg.any() and not record.exp_avg_sq.any()
        assert record.step == state.steps[name] == 0
    return {name: record.weight for name, record in state.records.items()}


def import_here(path: Path, config: BertConfig) -> dict[str, torch.Tensor]:
    return weights_of(import_start(path, config, seed=0))


def check(path: Path, expected: dict[str, torch.Tensor], config: BertConfig = CONFIG) -> None:
    """On two ranks, which share the parameters out."""
    found: dict[str, torch.Tensor] = {}
    for weights in pool(2).run(import_here, path, config):
        found |= weights
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def fresh_weights() -> dict[str, torch.Tensor]:
    return {name: record.weight for name, record in fresh_state(CONFIG, seed=7).records.items()}


def test_from_hugging_face(tmp_path):
    export_model(tmp_path, CONFIG, fresh_weights())
    check(tmp_path, fresh_weights())


def save_a_checkpoint(folder: Path, config: BertConfig = CONFIG) -> None:
    checkpoints = CheckpointStore(folder / "checkpoints")
    checkpoints.save(5, fresh_state(config, 7, dist.get_rank(), dist.get_world_size()), {})
    checkpoints.flush()


def test_from_another_run(tmp_path):
    pool(2).run(save_a_checkpoint, tmp_path)
    check(tmp_path, fresh_weights())


def import_counting(path: Path) -> int:
    """How often this rank looks for the run's latest checkpoint."""
    with patch(f"{importing.__name__}.find_checkpoint", wraps=find_checkpoint) as find:
        import_start(path, CONFIG, seed=0)
    return find.call_count


def test_the_latest_of_a_run_that_still_trains_is_looked_up_once(tmp_path):
    """It may move at any moment."""
    pool(2).run(save_a_checkpoint, tmp_path)
    assert pool(2).run(import_counting, tmp_path) == [1, 0]


def save_with_deepspeed(folder: Path, zero: int) -> None:
    settings = EngineSettings(
        layout=ParallelLayout(1, dist.get_world_size()),
        micro_batch=1,
        accumulation=1,
        precision="fp32",
        make_optimizer=adamw((0.9, 0.98), 1e-6),
        deepspeed={"zero_optimization": {"stage": zero}},
    )
    engine = start_engine(fresh_state(CONFIG, 7, dist.get_rank(), dist.get_world_size()), settings)
    engine.save_checkpoint(str(folder))


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_from_deepspeed(tmp_path, zero):
    pool(2).run(save_with_deepspeed, tmp_path, zero)
    check(tmp_path, fresh_weights())


def import_error(path: Path, config: BertConfig) -> str:
    with pytest.raises(UserError) as caught:
        import_start(path, config, seed=0)
    return str(caught.value)


def test_what_does_not_fit_is_one_line(tmp_path):
    export_model(tmp_path / "model", CONFIG, fresh_weights())
    (tmp_path / "empty").mkdir()
    wide = CONFIG.replace(ffn=64)
    (message,) = pool(1).run(import_error, tmp_path / "model", wide)
    assert "blocks.0.feedforward.input.weight has shape [48, 32], the first stage needs [64, 32]" in message
    (message,) = pool(1).run(import_error, tmp_path / "model", CONFIG.replace(layers=3))
    assert "has no blocks.2.attention.query.weight" in message
    (message,) = pool(1).run(import_error, tmp_path / "empty", CONFIG)
    assert "is not a checkpoint: it has neither" in message
    (message,) = pool(1).run(import_error, tmp_path / "nowhere", CONFIG)
    assert "nowhere does not exist" in message


def check_error(path: Path, config: BertConfig, trust_pickle: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        check_start(path, config, trust_pickle)
    return str(caught.value)


def spy_on_weights(path: Path, config: BertConfig) -> str:
    """What `check_start` says, which may read no weight."""
    with patch("torch.Tensor.copy_", side_effect=AssertionError), patch(f"{huggingface_import.__name__}.load_file"):
        return check_error(path, config)


def test_a_model_without_one_of_its_weights_is_refused_before_ranks_start(tmp_path):
    export_model(tmp_path, CONFIG, fresh_weights())
    state, name = load_file(tmp_path / "model.safetensors"), "bert.encoder.layer.1.output.dense.bias"
    del state[name]
    save_file(state, tmp_path / "model.safetensors")
    assert f"{tmp_path}: the model to import has no {name}" in spy_on_weights(tmp_path, CONFIG)


def test_shapes_are_compared_before_ranks_start(tmp_path):
    export_model(tmp_path / "model", CONFIG, fresh_weights())
    pool(2).run(save_a_checkpoint, tmp_path / "run")
    pool(2).run(save_with_deepspeed, tmp_path / "zero2", 2)
    pool(2).run(save_with_deepspeed, tmp_path / "zero0", 0)
    for folder in ("model", "run", "zero2", "zero0"):
        check_start(tmp_path / folder, CONFIG)
        message = spy_on_weights(tmp_path / folder, CONFIG.replace(ffn=64))
        assert "blocks.0.feedforward.input.weight has shape [48, 32], the first stage needs [64, 32]" in message, folder
        message = spy_on_weights(tmp_path / folder, CONFIG.replace(layers=3))
        assert "has no blocks.2.attention.query.weight; give the first stage the shape" in message, folder
        if folder in ("model", "run"):
            assert message.endswith("the shape of the model there: model: {layers: 2}")
    message = check_error(tmp_path / "model", CONFIG.replace(hidden=64, vocab_size=CONFIG.vocab_size + 9))
    assert f"with its vocabulary of {CONFIG.vocab_size}, prepared with --vocab" in message and "hidden: 32" in message


OTHER_FUNCTIONS = {
    "rotary_theta 160000.0": (dict(positions="rotary", rotary_theta=160_000.0), dict(rotary_theta=10_000.0)),
    'local_attention {"window": 8': (dict(local_attention={"window": 8}), dict(local_attention=None)),
    "activation gelu_tanh": (dict(activation="gelu_tanh"), dict(activation="gelu")),
    "norm_eps 1e-05": (dict(norm_eps=1e-5), dict(norm_eps=1e-12)),
    'token_dropout {"mask_token": 4': (dict(token_dropout={"mask_token": 4}), dict(token_dropout=None)),
    "pool_window 2": (dict(pool_window=2), dict(pool_window=1)),
    "gated true": (dict(gated=True), dict(gated=False)),
    "layers 3": (dict(layers=3), dict(layers=2)),
    "layers 4": (dict(layers=4, sharing=1), dict(layers=2)),
}
"""{what is told of a start: (its fields, those of a first stage that has all its weights)}."""


def test_the_same_weights_in_another_function_are_refused(tmp_path):
    """Before ranks start and on them, in one line with both values and what to set."""
    for number, (told, (there, wanted)) in enumerate(OTHER_FUNCTIONS.items()):
        run, config = tmp_path / str(number), CONFIG.replace(**there)
        pool(1).run(save_a_checkpoint, run, config)
        message = check_error(run, config.replace(**wanted))
        assert f"start {run} has {told}" in message and ", the first stage " in message, message
        field, value = told.split(maxsplit=1)
        assert f"give the first stage the shape of the model there: model: {{{field}: {value}" in message
        assert "\n" not in message
        assert pool(1).run(import_error, run, config.replace(**wanted)) == [message]
        as_recipe = yaml.safe_load(message.partition("there: model: ")[2])
        check_start(run, config.replace(**wanted).replace(**as_recipe))


def test_how_a_model_is_trained_may_differ_from_its_start(tmp_path):
    save = CONFIG.replace(positions="rotary", norm="pre")
    pool(1).run(save_a_checkpoint, tmp_path, save)
    ours = save.replace(
        **dict(hidden_dropout=0.0, attention_dropout=0.2, frozen_layers=1, max_positions=64, output_init="scaled"),
        **dict(layer_drop={"keep": 0.5}, sentence_head=False),
    )
    check_start(tmp_path, ours)
    pool(1).run(import_here, tmp_path, ours)


def test_deepspeeds_weights_that_the_first_stage_lacks_are_named(tmp_path):
    pool(2).run(save_with_deepspeed, tmp_path, 2)
    shallow = CONFIG.replace(layers=1)
    for message in (check_error(tmp_path, shallow), *pool(1).run(import_error, tmp_path, shallow)):
        assert "has blocks.1." in message and "for which the first stage has no place" in message


class Marked:
    """Writes a file when it is read from a pickle."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("file", ["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"])
def test_a_pickle_that_needs_more_than_tensors_is_refused(tmp_path, file):
    """Before ranks start and on them, whatever file of the checkpoint it is in."""
    pool(2).run(save_with_deepspeed, tmp_path, 2)
    path = next(tmp_path.rglob(file))
    states = torch.load(path, weights_only=False)
    torch.save(states | {"args": Marked(tmp_path / "it-ran")}, path)
    for message in (check_error(tmp_path, CONFIG), *pool(1).run(import_error, tmp_path, CONFIG)):
        assert "holds more than tensors and plain values (" in message and "pathlib.Path" in message
        assert "if you trust who wrote it, add --trust-pickle" in message
    assert not (tmp_path / "it-ran").exists()
    check_start(tmp_path, CONFIG, trust_pickle=True)
    assert (tmp_path / "it-ran").exists()
