"""Pooled input: the sample format, what is pooled, what the first layer sees."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from model.batch import Batch
from model.errors import UserError
from model.variants.pooled_input.layers import pool, pooled_masks
from model.variants.pooled_input.slots import split_targets
from pretrain.cost.flops import training_flops
from tests.support.running import build, random_batch, small_config

POOLED = small_config(layers=2, pool_window=2)


def one_row(masked=(3, 6), length=10) -> Batch:
    return Batch(
        ids=torch.arange(100, 100 + length).unsqueeze(0),
        masked_positions=torch.tensor(masked),
        masked_ids=torch.tensor([7] * len(masked)),
        types=torch.tensor([[0] * 5 + [1] * (length - 5)]),
        sentence_positions=torch.tensor([0]),
        sentence_labels=torch.tensor([1]),
    )


def test_the_sample_format_of_a_row():
    batch = split_targets(one_row(), window=2)
    #                                  [CLS]  context of 7 in four slots    | targets
    assert batch.ids.tolist() == [[100, 101, 102, 104, 105, 107, 108, 109, 103, 106]]
    assert batch.positions.tolist() == [[0, 1, 2, 4, 5, 7, 8, 9, 3, 6]]
    assert batch.types.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 0, 1]]
    assert batch.slots.tolist() == [[0, 1, 1, 2, 2, 3, 3, 4, 5, 6]]
    assert batch.slot_segments.tolist() == [[1] * 7]
    assert batch.masked_positions.tolist() == [5, 6]
    assert batch.sentence_positions.tolist() == [0]
    assert batch.num_tokens == 10


@pytest.mark.parametrize("window", [2, 3, 5])
@pytest.mark.parametrize("layout", ["full", "padded", "packed"])
def test_slots_partition_each_segment_in_windows(window, layout):
    plain = random_batch(POOLED, layout)
    batch = split_targets(plain, window)
    masked_ids = plain.ids.flatten()[plain.masked_positions]
    for row in range(len(batch.ids)):
        for slot, segment in enumerate(batch.slot_segments[row].tolist()):
            members = ((batch.slots[row] == slot) & (batch.segments[row] > 0)).nonzero().squeeze(1)
            if segment == 0:
                assert len(members) == 0
                continue
            assert batch.segments[row, members].tolist() == [segment] * len(members)
            assert 1 <= len(members) <= window
            assert len(members) == 1 or (batch.positions[row, members] > 0).all(), "[CLS] is pooled"
        real = batch.segments[row] > 0
        before = plain.segments[row] > 0 if plain.segments is not None else torch.ones(12, dtype=torch.bool)
        assert sorted(batch.ids[row, real].tolist()) == sorted(plain.ids[row, before].tolist())
    num_slots = batch.slot_segments.shape[1]
    for position, token in zip(batch.masked_positions.tolist(), masked_ids.tolist(), strict=True):
        row, slot = divmod(position, num_slots)
        members = ((batch.slots[row] == slot) & (batch.segments[row] > 0)).nonzero().squeeze(1)
        assert batch.ids[row, members].tolist() == [token], "a target is pooled or lost"


def test_length_after_the_first_layer():
    model = build(POOLED)
    lengths = []
    for block in model.blocks:
        block.feedforward.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    model(one_row())
    assert lengths == [1 + 4 + 2] * 2  # 1 + ceil((8 - 1) / 2) + 2 targets


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_first_layer_looks_at_all_tokens_from_the_slots(norm):
    """Written out for one row: mean, asymmetric attention, feed-forward."""
    config = POOLED.replace(layers=1, norm=norm)
    model = build(config)
    batch = split_targets(one_row(), 2)
    x = model.embeddings(batch)[0]  # [10, H]
    slots = torch.stack([x[batch.slots[0] == slot].mean(0) for slot in range(7)])
    attention, feedforward = model.blocks[0].attention, model.blocks[0].feedforward
    seen, looking = (attention.norm(x), attention.norm(slots)) if norm == "pre" else (x, slots)
    query, key, value = (
        projection(stream).unflatten(-1, (4, 6)).transpose(0, 1)
        for projection, stream in ((attention.query, looking), (attention.key, seen), (attention.value, seen))
    )
    context = (query @ key.transpose(1, 2) / 6**0.5).softmax(-1) @ value
    y = slots + attention.output(context.transpose(0, 1).flatten(1))
    y = y if norm == "pre" else attention.norm(y)
    branch = feedforward.output(F.gelu(feedforward.input(feedforward.norm(y) if norm == "pre" else y)))
    y = y + branch if norm == "pre" else feedforward.norm(y + branch)
    torch.testing.assert_close(model.encode(batch)[0], model.final_norm(y), atol=1e-12, rtol=0)


def test_padded_and_packed_rows_equal_the_sequences_one_by_one():
    model = build(POOLED)
    batch = random_batch(POOLED, "packed")
    apart = 0.0
    for row in range(3):
        for segment in batch.segments[row].unique().tolist():
            where = (batch.segments == segment) & (torch.arange(3) == row).unsqueeze(1)
            where = where.flatten().nonzero().squeeze(1)
            masked = torch.isin(batch.masked_positions, where)
            if segment and masked.any():
                single = Batch(
                    ids=batch.ids.flatten()[where].unsqueeze(0),
                    types=batch.types.flatten()[where].unsqueeze(0),
                    masked_positions=torch.searchsorted(where, batch.masked_positions[masked]),
                    masked_ids=batch.masked_ids[masked],
                )
                apart += model(single).mlm_loss.item()
    assert model(batch).mlm_loss.item() == pytest.approx(apart, rel=1e-12)


def test_the_order_within_a_window_matters_only_to_the_keys():
    """Two context tokens of one window change places, positions included: the pooled slot stays, the keys do too,
    because each key carries its position; swapping the words alone changes both."""
    model = build(POOLED)
    batch = one_row()
    swapped = Batch(**{**vars(batch), "ids": batch.ids[:, [0, 2, 1, *range(3, 10)]]})
    assert abs(model(batch).loss.item() - model(swapped).loss.item()) > 1e-6


def test_every_position_is_trained():
    model = build(POOLED)
    model(one_row(length=16, masked=(3, 6, 9))).loss.backward()
    assert (model.embeddings.position.weight.grad.abs().sum(1) > 0).all()


def test_no_window_is_the_plain_model():
    """With one token a slot only the order of a row changes."""
    batch = one_row()
    split = split_targets(batch, window=1)
    assert torch.equal(pool(torch.arange(10.0).view(1, 10, 1), pooled_masks(split)).flatten(), torch.arange(10.0))
    plain = build(POOLED.replace(pool_window=1))
    reordered = Batch(**{**vars(split), "slots": None, "slot_segments": None})
    assert plain(batch).loss.item() == pytest.approx(plain(reordered).loss.item(), rel=1e-12)


@pytest.mark.parametrize("frozen", [0, 1])
def test_flops(frozen):
    config = small_config(layers=3, pool_window=2, vocab_size=128, max_positions=32, frozen_layers=frozen)
    rows, length = 3, 20
    masked = torch.cat([torch.tensor([2, 9, 15]) + row * length for row in range(rows)])
    batch = Batch(
        ids=torch.randint(128, (rows, length)),
        masked_positions=masked,
        masked_ids=masked % 128,
        sentence_positions=torch.arange(rows) * length,
        sentence_labels=torch.zeros(rows, dtype=torch.int64),
    )
    model = build(config)
    with FlopCounterMode(display=False) as counter:
        model(batch).loss.backward()
    assert counter.get_total_flops() == training_flops(config, rows, length, len(masked))
    assert training_flops(config, rows, length, len(masked)) < training_flops(
        config.replace(pool_window=1), rows, length, len(masked)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(attention="elu"), "attention and pool_window do not go together"),
        (dict(light_layers=(1,)), "pool_window and light_layers do not go together"),
        (dict(layer_drop={}, norm="pre"), "layer_drop and pool_window do not go together"),
        (dict(masked={"layers": (1,)}), "masked.layers and pool_window do not go together"),
    ],
)
def test_refused_combinations(changes, message):
    with pytest.raises(UserError, match=message):
        POOLED.replace(**changes)
