"""Token dropping against a dense model with masks, written from the paper, in float64; and the table that decides."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model import attention_kernels
from model.batch import Batch, Runs
from model.config import BertConfig
from model.errors import UserError
from model.variants.token_dropping.table import SPECIAL, LossTable
from tests.support.running import build, random_batch, small_config

CONFIG = small_config(layers=6, token_dropping={"keep": 0.4})


def importance_of(config: BertConfig) -> torch.Tensor:
    """Some entries have equal losses, and some words of the rows are special."""
    losses = torch.from_numpy(np.random.default_rng(0).integers(0, 20, config.vocab_size)).float()
    return losses.index_fill(0, torch.tensor([7, 30, 99]), SPECIAL)


def kept_by(importance: np.ndarray, batch: Batch, share: float) -> torch.Tensor:
    """Row by row, in numpy: [B, S] bool."""
    kept = torch.zeros_like(batch.ids, dtype=torch.bool)
    for row, ids in enumerate(batch.ids.tolist()):
        rank = [-importance[word] for word in ids]
        if batch.segments is not None:
            rank = [
                float("inf") if segment == 0 else each
                for each, segment in zip(rank, batch.segments[row].tolist(), strict=True)
            ]
        for place in sorted(range(len(ids)), key=lambda place: (rank[place], place))[: round(share * len(ids))]:
            kept[row, place] = True
    return kept


class Dense:
    """BERT with all tokens in every layer, and masks. Weights by the names of the model."""

    def __init__(self, config: BertConfig, weights: dict[str, torch.Tensor]):
        self.config, self.weights = config, weights

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + self.config.norm_eps).sqrt()
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def turned(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        if self.config.positions != "rotary":
            return x
        pairs = torch.complex(*x.chunk(2, -1))  # [B, n, S, d/2]
        steps = self.config.rotary_theta ** (-torch.arange(pairs.shape[-1]).double() / pairs.shape[-1])
        turns = positions[:, None, :, None] * steps
        pairs = pairs * torch.polar(torch.ones_like(turns), turns)
        return torch.cat([pairs.real, pairs.imag], -1)

    def layer(self, x: torch.Tensor, layer: int, seen: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """seen [B, S, S]: which keys each query sees."""
        name = f"blocks.{self.config.block_of(layer)}"
        pre = self.config.norm == "pre"

        def attention(x: torch.Tensor) -> torch.Tensor:
            query, key, value = (
                self.linear(x, f"{name}.attention.{each}").unflatten(-1, (self.config.heads, -1)).transpose(1, 2)
                for each in ("query", "key", "value")
            )
            query, key = self.turned(query, positions), self.turned(key, positions)
            scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
            scores = scores.masked_fill(~seen[:, None], -torch.inf)
            sees_some = seen.any(-1)[:, None, :, None]  # what the others become is not used
            probabilities = torch.where(sees_some, scores.softmax(-1), 0.0)
            return self.linear((probabilities @ value).transpose(1, 2).flatten(2), f"{name}.attention.output")

        def feedforward(x: torch.Tensor) -> torch.Tensor:
            return self.linear(F.gelu(self.linear(x, f"{name}.feedforward.input")), f"{name}.feedforward.output")

        for branch, part in ((attention, "attention"), (feedforward, "feedforward")):
            normed = f"{name}.{part}.norm"
            x = x + branch(self.norm(x, normed)) if pre else self.norm(x + branch(x), normed)
        return x

    def loss(self, batch: Batch, kept: torch.Tensor) -> torch.Tensor:
        config, weights, num_layers = self.config, self.weights, self.config.layers
        ids = batch.ids
        segments = torch.ones_like(ids) if batch.segments is None else batch.segments
        positions = torch.arange(ids.shape[1]).expand_as(ids) if batch.positions is None else batch.positions
        x = weights["embeddings.word.weight"][ids] + weights["embeddings.token_type.weight"][batch.types]
        if config.positions == "learned":
            x = x + weights["embeddings.position.weight"][positions]
        if config.norm == "post":
            x = self.norm(x, "embeddings.norm")
        same = segments.unsqueeze(2) == segments.unsqueeze(1)
        for layer in range(num_layers):
            is_middle = num_layers // 2 <= layer < num_layers - 1
            y = self.layer(x, layer, same & kept.unsqueeze(1) if is_middle else same, positions)
            drops = is_middle or layer == num_layers // 2 - 1
            x = torch.where(kept.unsqueeze(-1), y, x) if drops else y
        if config.norm == "pre":
            x = self.norm(x, "final_norm")
        x = x.flatten(0, 1)
        words = self.norm(F.gelu(self.linear(x[batch.masked_positions], "mlm.transform")), "mlm.norm")
        scores = (words @ weights["embeddings.word.weight"].T + weights["mlm.bias"])[:, : config.vocab_size]
        loss = F.cross_entropy(scores, batch.masked_ids, reduction="sum")
        pairs = self.linear(self.linear(x[batch.sentence_positions], "pooler").tanh(), "sentence")
        return loss + F.cross_entropy(pairs, batch.sentence_labels, reduction="sum")


def trained(config: BertConfig, batch: Batch, recompute: bool = False) -> dict[str, torch.Tensor]:
    model = build(config).train()
    model.token_losses.importance = importance_of(config)
    model.recompute = recompute
    loss = model(batch).loss
    loss.backward()
    return {"loss": loss.detach()} | {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("layout", ["full", "padded", "packed"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "pre", "layers": 5},
        {"positions": "rotary", "layers": 2},
        {"sharing": 2, "token_dropping": {"keep": 0.8}},
    ],
    ids=["post", "pre, odd", "rotary, two layers", "shared, padding kept"],
)
def test_the_same_as_a_dense_model_with_masks(changes, layout):
    config = CONFIG.replace(**changes)
    batch = random_batch(config, layout)
    kept = kept_by(importance_of(config).numpy(), batch, config.token_dropping.keep)
    weights = {name: p.detach().clone().requires_grad_() for name, p in build(config).named_parameters()}
    expected = Dense(config, weights).loss(batch, kept)
    expected.backward()
    found = trained(config, batch)
    tolerance = 1e-5 if config.positions == "rotary" else 1e-10  # angles are fp32
    torch.testing.assert_close(found["loss"], expected.detach(), rtol=tolerance, atol=0)
    for name, weight in weights.items():
        num_uses = len(config.layers_of(int(name.split(".")[1]))) if name.startswith("blocks.") else 1
        torch.testing.assert_close(found[name], weight.grad / num_uses, rtol=tolerance, atol=tolerance, msg=name)


def test_layers_computed_again_are_the_same():
    batch = random_batch(CONFIG, "packed")
    plain, again = trained(CONFIG, batch), trained(CONFIG, batch, recompute=True)
    assert all(torch.equal(tensor, again[name]) for name, tensor in plain.items())


def one_by_one(query, key, value, runs: Runs, dropout: float, sight) -> torch.Tensor:
    """A kernel for runs, some of which may be empty. [T, n, d]"""
    assert runs.longest >= max(runs.starts.diff().tolist())
    parts = (x.tensor_split(runs.starts[1:-1].tolist()) for x in (query, key, value))
    context = []
    for q, k, v in zip(*parts, strict=True):
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        context.append(((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(context)


@pytest.mark.parametrize("changes", [{}, {"positions": "rotary"}], ids=["learned", "rotary"])
def test_kernels_for_runs_take_the_runs_of_the_kept_tokens(monkeypatch, changes):
    config = CONFIG.replace(**changes)
    batch = random_batch(config, "packed")
    expected = trained(config, batch)
    sizes = []

    def kernel(query, *arguments):
        sizes.append(len(query))
        return one_by_one(query, *arguments)

    monkeypatch.setattr(attention_kernels, "kernel_for_runs", lambda *arguments: kernel)
    found = trained(config, replace(batch, runs=Runs.of(batch.segments)))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9)
    num_tokens, num_kept = batch.ids.numel(), 3 * round(0.4 * 12)
    assert sizes == [num_tokens, num_tokens, num_kept, num_kept, num_tokens]  # one layer takes a mask


def test_in_evaluation_it_is_the_plain_model():
    batch = random_batch(CONFIG, "packed")
    model, plain = build(CONFIG), build(CONFIG.replace(token_dropping=None))
    assert torch.equal(model(batch).loss, plain(batch).loss)
    assert not model.token_losses.sums.any()
    assert not torch.equal(model.train()(batch).loss, plain.train()(batch).loss)


def test_a_step_adds_its_losses_and_moves_the_table():
    model, batch = build(CONFIG).train(), random_batch(CONFIG, "full")
    batches = [batch, replace(random_batch(CONFIG, "full", seed=1), masked_ids=batch.masked_ids)]
    masked = batch.masked_ids.repeat(2)
    model.begin_step(0, 0)
    losses = [model(batch).mlm_loss.item() for batch in batches]
    sums = model.token_losses.sums
    assert sums[0].sum().item() == pytest.approx(sum(losses), rel=1e-12)
    assert torch.equal(sums[1], torch.bincount(masked, minlength=CONFIG.vocab_size).double())
    table = LossTable.fresh(CONFIG.vocab_size).after(sums, beta=0.9)
    losses, counts = sums.numpy()
    expected = np.full(CONFIG.vocab_size, 10.0)
    seen = counts > 0
    expected[seen] = 0.9 * expected[seen] + 0.1 * losses[seen] / counts[seen]
    np.testing.assert_allclose(table.values.numpy(), expected, rtol=1e-7)
    assert torch.equal(LossTable.from_json(table.to_json()).values, table.values)
    model.begin_step(1, 0)
    assert not model.token_losses.sums.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(layers=1), "token_dropping needs two layers, one of them above those that drop tokens; layers is 1"),
        (dict(attention="elu"), "token_dropping and attention do not go together: a kernel needs as many queries as"),
        (dict(layer_drop={}, norm="pre"), "token_dropping and layer_drop do not go together: both decide how"),
        (dict(light_layers=(1,)), "token_dropping and light_layers do not go together: the attention map of all"),
        (dict(local_attention={"window": 4}), "token_dropping and local_attention do not go together: kept tokens"),
        (dict(masked={"layers": (1,)}), "token_dropping and masked.layers do not go together"),
        (dict(pool_window=2), "token_dropping and pool_window do not go together: both decide which tokens"),
        (dict(sub_models=2), "token_dropping and sub_models do not go together"),
    ],
)
def test_refused_combinations(changes, message):
    with pytest.raises(UserError, match=message):
        CONFIG.replace(**changes)


@pytest.mark.gpu
def test_empty_runs_on_a_gpu():
    """In bf16 by torch's kernel, compared with the mask in fp32, up to bf16 rounding."""
    config = CONFIG.replace(hidden=64, ffn=128)
    batch = random_batch(config, "packed").to("cuda")
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        model = build(config, dtype=dtype).to("cuda").train()
        model.token_losses.importance = importance_of(config)
        losses.append(model(batch).loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
