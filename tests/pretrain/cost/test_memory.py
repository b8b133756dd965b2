"""The memory of a step that `plan` predicts, compared with what autograd saves and what a rank holds."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from growth.state import fresh_state
from model.config import BertConfig
from model.parallel import sequence as sequence_parallel
from model.parallel.tensor import TensorParallel
from pretrain.cost.memory import (
    HEAP_SHARE,
    StateBytes,
    StepBytes,
    activation_bytes,
    buffer_bytes,
    fp32_gradient_bytes,
    held_bytes,
    parameters_per_tensor_rank,
    peak_bytes,
)
from pretrain.engine.build import build_model
from pretrain.profile.against import Workload, packed_batches
from tests.support.running import ALONE, layout_of
from tests.support.workers import pool

SHAPE = dict(layers=3, hidden=64, heads=4, ffn=256, vocab_size=512, max_positions=64)


def kept_bytes(config: BertConfig, dtype: torch.dtype, tp: TensorParallel = ALONE) -> tuple[int, int]:
    """Distinct storages that autograd keeps of one forward pass, parameters left out; and the prediction."""
    workload = Workload.full(config, 64, 16)
    (batch,) = packed_batches(workload, 1)
    model = build_model(config, tp, dtype).train()
    state = fresh_state(config, seed=0)
    model.load_weights(lambda name: state.records[name].weight)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    original = sequence_parallel.gathered_again

    def gathered_again(part: torch.Tensor, *arguments) -> saved_tensors_hooks:
        """What such hooks keep, those around them do not see."""
        hooks = original(keep(part), *arguments)
        pack = hooks.pack_hook
        hooks.pack_hook = lambda tensor: keep(packed) if isinstance(packed := pack(tensor), torch.Tensor) else packed
        return hooks

    watching = patch.object(sequence_parallel, "gathered_again", gathered_again)
    with saved_tensors_hooks(keep, lambda tensor: tensor), watching:
        model(batch)
    tokens, predictions = batch.ids.numel(), len(batch.masked_ids)
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    predicted = activation_bytes(
        config,
        tokens,
        64,
        predictions,
        precision,
        tp.size,
        recompute=not tp.gathers_again,
        sequence_parallel=tp.sequence_parallel,
    )
    scores = predictions * config.padded_vocab_size // tp.size  # not by autograd
    predicted -= scores * dtype.itemsize
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), predicted


def test_without_layers_nothing_is_computed_again():
    config = BertConfig(**{**SHAPE, "layers": 0})
    plain, again = (activation_bytes(config, 1024, 64, 150, "fp32", recompute=again) for again in (False, True))
    assert plain == again > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_dropout": 0.1, "attention_dropout": 0.1},
        {"norm": "pre"},
        {"ffn": (64, 256, 128), "heads": (4, 2, 4)},
        {"light_layers": (1, 2), "attention_dropout": 0.1},
        {"attention": "elu"},
        {"gated": True, "positions": "rotary"},
        {"local_attention": {"window": 16, "global_every": 2}},
        {"token_dropping": {}, "norm": "pre", "layers": 4},
    ],
    ids=["plain", "dropout", "pre", "ragged", "light", "elu", "gated", "local", "token dropping"],
)
def test_activations_are_what_autograd_keeps(changes, dtype):
    quiet = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    kept, predicted = kept_bytes(BertConfig(**{**SHAPE, **quiet, "head_dim": 16, **changes}), dtype)
    assert predicted == pytest.approx(kept, rel=0.03)


def test_random_features_are_kept_too():
    """In fp32: in 16 bit FAVOR+ computes its features in fp32, which the formula counts as 16 bit."""
    config = BertConfig(**SHAPE, attention="favor", hidden_dropout=0, attention_dropout=0)
    kept, predicted = kept_bytes(config, torch.float32)
    assert predicted == pytest.approx(kept, rel=0.03)


def kept_by_a_rank(config: BertConfig, divided: bool) -> tuple[int, int]:
    tp = layout_of(2).install()
    return kept_bytes(config, torch.float32, replace(tp, sequence_parallel=divided))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_sequence_parallelism_keeps_half_of_everything(norm):
    config = BertConfig(**SHAPE, norm=norm, hidden_dropout=0.1, attention_dropout=0)
    for divided in (False, True):
        for kept, predicted in pool(2).run(kept_by_a_rank, config, divided):
            assert predicted == pytest.approx(kept, rel=0.03)


def kept_where_gathered(config: BertConfig, gathers_again: bool) -> tuple[int, int]:
    tp = layout_of(2).install()
    return kept_bytes(config, torch.float32, replace(tp, sequence_parallel=True, gathers_again=gathers_again))


def test_a_layer_that_does_not_gather_again_keeps_the_inputs_of_its_branches_whole():
    """Such is the one that is being computed again, of which the formula counts the input a second time."""
    config = BertConfig(**{**SHAPE, "layers": 1}, hidden_dropout=0.1, attention_dropout=0)
    part_of_a_hidden_vector = 16 * 64 * 64 // 2 * 4
    for divided, whole in zip(
        *(pool(2).run(kept_where_gathered, config, again) for again in (True, False)), strict=True
    ):
        kept, predicted = (after - before for before, after in zip(divided, whole, strict=True))
        assert kept == predicted - part_of_a_hidden_vector == 2 * part_of_a_hidden_vector


def test_tensor_parallelism_cuts_what_lies_between_entry_and_exit():
    config = BertConfig(**SHAPE, hidden_dropout=0, attention_dropout=0)
    whole, cut = (activation_bytes(config, 1000, 64, 150, "bf16", size) for size in (1, 2))
    replicated = 1000 * 2 * 64 * (1 + 3 * 4)
    assert cut - replicated == (whole - replicated) // 2


def test_computing_layers_again_leaves_their_inputs_and_one_layer():
    config = BertConfig(**SHAPE, hidden_dropout=0, attention_dropout=0)
    one, all_, again = (
        activation_bytes(config.replace(layers=layers), 1000, 64, 0, "bf16", recompute=recompute)
        for layers, recompute in ((1, False), (3, False), (3, True))
    )
    assert again == one + 3 * 1000 * 2 * 64
    assert again < all_


def test_buffers_shrink_with_the_ranks():
    config = BertConfig(**SHAPE)
    count = parameters_per_tensor_rank(config, 1)
    table = config.padded_vocab_size * config.hidden
    assert buffer_bytes(config, 0, "bf16", 1, 4) == 2 * table
    assert buffer_bytes(config, 0, "fp32", 1, 4) == 4 * table
    assert buffer_bytes(config, 1, "bf16", 1, 1) == 2 * table + (2 + 4) * count
    assert buffer_bytes(config, 1, "bf16", 1, 16) < buffer_bytes(config, 1, "bf16", 1, 4)
    assert buffer_bytes(config, 1, "bf16", 1, 4, bucket_elements=1000) < buffer_bytes(config, 1, "bf16", 1, 4)
    assert buffer_bytes(config, 1, "bf16", 1, 4, overlaps=True) > buffer_bytes(config, 1, "bf16", 1, 4)
    assert buffer_bytes(config, 1, "bf16", 1, 1, accumulation=2) == 2 * table + (2 + 4 + 2) * count


def test_only_whole_masters_need_gradients_of_their_own_at_once():
    config = BertConfig(**SHAPE)
    assert fp32_gradient_bytes(config, 0, "bf16", 1) == 4 * parameters_per_tensor_rank(config, 1)
    assert fp32_gradient_bytes(config, 0, "fp32", 1) == fp32_gradient_bytes(config, 1, "bf16", 1) == 0


def test_the_peak_is_the_sum():
    held, step = StateBytes(10, 20, 30, host=5), StepBytes(1000, 200, afterwards=900, process=7)
    assert peak_bytes(held, step, on_cpu=False) == 1267
    assert peak_bytes(held, step, on_cpu=True) == 1272 + 1000 * HEAP_SHARE
    assert peak_bytes(held, StepBytes(1000, 200, afterwards=3000), on_cpu=True) == 3265


def test_a_gpu_holds_more_than_tensors():
    """Of BERT-large, whose tensors take 7.7 GiB, torch's allocator reserves 8.6; CUDA and NCCL come on top."""
    alone, in_a_group = (held_bytes(round(7.7 * 2**30), num_ranks) / 2**30 for num_ranks in (1, 8))
    assert 8.6 < alone < 9.5
    assert 0.2 < in_a_group - alone < 1
