"""What one rank's model computes: segments, norm placement, losses and their normalisation."""

import pytest
import torch
import torch.nn.functional as F

from model.batch import Batch
from tests.support.running import build, random_batch, small_config


def one_by_one(batch: Batch) -> list[tuple[torch.Tensor, Batch]]:
    """Each segment as a separate batch, with its flat positions in the given batch."""
    singles = []
    flat = batch.segments.flatten()
    for row in range(batch.segments.shape[0]):
        for segment in batch.segments[row].unique().tolist():
            if segment:
                in_row = (batch.segments == segment) & (torch.arange(len(batch.segments)) == row).unsqueeze(1)
                where = in_row.flatten().nonzero().squeeze(1)
                masked = torch.isin(batch.masked_positions, where)
                single = Batch(
                    ids=batch.ids.flatten()[where].unsqueeze(0),
                    types=batch.types.flatten()[where].unsqueeze(0),
                    masked_positions=torch.searchsorted(where, batch.masked_positions[masked]),
                    masked_ids=batch.masked_ids[masked],
                    sentence_positions=torch.tensor([0]),
                    sentence_labels=batch.sentence_labels[batch.sentence_positions == where[0]],
                )
                singles.append((where, single))
    assert sum(len(where) for where, _ in singles) == torch.count_nonzero(flat)
    return singles


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_segments_do_not_see_each_other(layout, norm):
    config = small_config(norm=norm)
    model = build(config)
    batch = random_batch(config, layout)
    hidden = model.encode(batch).flatten(0, 1)
    together = model(batch)
    apart = []
    for where, single in one_by_one(batch):
        torch.testing.assert_close(hidden[where], model.encode(single).flatten(0, 1), atol=1e-12, rtol=0)
        apart.append(model(single))
    assert len(apart) == len(batch.sentence_positions)
    for field in ("mlm_loss", "mlm_correct", "sentence_loss", "sentence_correct"):
        total = sum(getattr(output, field).item() for output in apart)
        assert getattr(together, field).item() == pytest.approx(total, rel=1e-12), field


def test_padding_changes_nothing_and_is_not_counted():
    config = small_config()
    model = build(config)
    batch = random_batch(config, "padded")
    padding = batch.segments == 0
    other = Batch(**{**vars(batch), "ids": torch.where(padding, 7, batch.ids)})
    assert model(batch).loss.item() == model(other).loss.item()
    assert batch.num_tokens == int((~padding).sum()) == 12 + 10 + 8


def test_one_full_segment_needs_no_mask():
    config = small_config()
    model = build(config)
    batch = random_batch(config, "full")
    explicit = Batch(**{**vars(batch), "segments": torch.ones_like(batch.ids)})
    torch.testing.assert_close(model.encode(batch), model.encode(explicit), atol=1e-13, rtol=0)


def test_the_loss_weighs_sums():
    config = small_config()
    model = build(config)
    batch = random_batch(config)
    output = model(batch, mlm_scale=0.1, sentence_scale=3.0)
    assert output.loss.item() == pytest.approx(
        0.1 * output.mlm_loss.item() + 3 * output.sentence_loss.item(), rel=1e-12
    )
    hidden = model.encode(batch).flatten(0, 1)
    logits = model.mlm(hidden[batch.masked_positions], model.embeddings.word.weight)[:, : config.vocab_size]
    assert output.mlm_loss.item() == pytest.approx(F.cross_entropy(logits, batch.masked_ids, reduction="sum").item())
    assert output.mlm_correct.item() == (logits.argmax(1) == batch.masked_ids).sum().item()


def test_without_sentence_labels_only_words_are_predicted():
    config = small_config(sentence_head=False)
    output = build(config)(random_batch(config))
    assert output.loss.item() == output.mlm_loss.item()
    assert output.sentence_loss.item() == output.sentence_correct.item() == 0


def normalised(x: torch.Tensor) -> bool:
    """Mean 0 and variance 1 in every token (for norms with weight 1 and bias 0)."""
    return x.mean(-1).abs().max().item() < 1e-9 and (x.var(-1, unbiased=False) - 1).abs().max().item() < 1e-9


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_norm_placement(norm):
    config = small_config(norm=norm)
    model = build(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
    seen = {}
    model.embeddings.register_forward_hook(lambda module, inputs, output: seen.update(embedded=output))
    block = model.blocks[0]
    block.attention.register_forward_hook(lambda module, inputs, output: seen.update(attention_input=inputs[0]))
    block.feedforward.register_forward_hook(lambda module, inputs, output: seen.update(ffn_input=inputs[0]))
    block.register_forward_hook(lambda module, inputs, output: seen.update(block_output=output))
    with torch.no_grad():
        last = model.encode(random_batch(config))
    assert normalised(seen["attention_input"])
    assert normalised(seen["ffn_input"])
    assert normalised(last)
    assert normalised(seen["embedded"]) == (norm == "post")
    assert normalised(seen["block_output"]) == (norm == "post")


def test_works_in_bf16():
    config = small_config()
    batch = random_batch(config, "packed")
    exact = build(config)(batch, mlm_scale=1 / len(batch.masked_ids))
    rounded = build(config, dtype=torch.bfloat16)(batch, mlm_scale=1 / len(batch.masked_ids))
    assert rounded.mlm_loss.dtype == torch.float32
    assert rounded.loss.item() == pytest.approx(exact.loss.item(), rel=0.05)
