"""What the proofs share: states with every number at a generic point, and loss and gradients of a real model."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from growth.change import ShapeChange
from growth.operators import make_operator, shape_change
from growth.operators.base import Inputs
from growth.state import Record
from model.bert import BertForPreTraining
from model.config import BertConfig
from model.errors import UserError
from model.parameters import parameter_table
from tests.support.running import random_batch, random_weight

State = dict[str, Record]
Gradients = dict[str, Tensor]


def tiny(**changes) -> BertConfig:
    fields = dict(layers=2, hidden=12, heads=3, head_dim=4, ffn=10, vocab_size=37, max_positions=12)
    return BertConfig(**{**fields, "hidden_dropout": 0.0, "attention_dropout": 0.0, **changes})


POST, PRE = tiny(), tiny(norm="pre")
MODERN = tiny(
    **dict(positions="rotary", type_vocab=0, gated=True, norm="pre", embedding_norm=True, first_norm=False),
    **dict(attention_bias=False, ffn_bias=False, norm_bias=False, head_bias=False),
)
"""The parts of ModernBERT."""
RMS = tiny(norm="pre", norm_type="rms", gated=True, activation="silu", positions="rotary")


def random_state(config: BertConfig, seed: int = 0, step: int = 3000) -> State:
    """Weights, moments and a step, all float64 and generic: no bias is 0, no norm weight 1."""
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    state = {}
    for name in parameter_table(config):
        weight = random_weight(config, name, seed)
        state[name] = Record(weight, 1e-2 * noise(weight), 1e-4 * noise(weight).square(), step)
    return state


def change_of(
    source: BertConfig, grow: Mapping[str, dict], wanted: dict, state: State | None = None, **inputs: Callable
) -> ShapeChange:
    """The change that operators `{name: options}` make towards the wanted fields."""
    operators = [make_operator(name, options) for name, options in grow.items()]
    fetch = {"fetch": state.__getitem__} if state is not None else {}
    return shape_change(source, operators, wanted, Inputs(**fetch, **inputs))


def assert_refused(source: BertConfig, grow: Mapping[str, dict], wanted: dict, message: str) -> None:
    """In one line that matches `message`."""
    with pytest.raises(UserError, match=message) as caught:
        change_of(source, grow, wanted)
    assert "\n" not in str(caught.value)


def grown(change: ShapeChange, state: Mapping[str, Record]) -> State:
    return {name: change.record(name, state.__getitem__) for name in parameter_table(change.target)}


def loss_and_gradients(config: BertConfig, state: Mapping[str, Record], length: int = 8) -> tuple[float, Gradients]:
    """Loss of one batch and its gradient by parameter, in logical shape."""
    model = BertForPreTraining(config).double()
    model.load_weights(lambda name: state[name].weight)
    output = model(random_batch(config, "padded", length=length), mlm_scale=0.25, sentence_scale=0.5)
    output.loss.backward()
    table = parameter_table(config)
    gradients = {}
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if table[name].axes[0].name == "vocabulary":
            gradient = gradient[: config.vocab_size]
        gradients[name] = gradient.reshape(table[name].shape)
    return output.loss.item(), gradients


def loss(config: BertConfig, state: State) -> float:
    return loss_and_gradients(config, state)[0]


def train_sgd(config: BertConfig, state: State, steps: int, lr: float = 0.05) -> State:
    for _ in range(steps):
        _, gradients = loss_and_gradients(config, state)
        state = {name: Record(r.weight - lr * gradients[name], *r.tensors()[1:]) for name, r in state.items()}
    return state


def summed_over_uses(config: BertConfig, gradients: Gradients) -> Gradients:
    """The derivatives of the loss: a block with several uses reports the mean over them instead of the sum."""
    blocks = {name: spec.block for name, spec in parameter_table(config).items()}
    return {
        name: gradient if blocks[name] is None else gradient * len(config.layers_of(blocks[name]))
        for name, gradient in gradients.items()
    }


def pulled_back(change: ShapeChange, state: Mapping[str, Record], gradients: Gradients) -> Gradients:
    """J^T G': the gradient of <G', W'(W)> with respect to the old weights W."""
    leaves = {name: record.weight.clone().requires_grad_() for name, record in state.items()}
    records = {
        name: Record(leaves[name], record.exp_avg, record.exp_avg_sq, record.step) for name, record in state.items()
    }
    total = sum(
        (gradients[name] * change.record(name, records.__getitem__).weight).sum()
        for name in parameter_table(change.target)
    )
    total.backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


def pushed_forward(change: ShapeChange, state: Mapping[str, Record], gradients: Gradients) -> Gradients:
    """The gradients that the change predicts: what it makes of an exp_avg equal to the gradient."""
    records = {
        name: Record(record.weight, gradients[name], record.exp_avg_sq, record.step) for name, record in state.items()
    }
    return {name: change.record(name, records.__getitem__).exp_avg for name in parameter_table(change.target)}


def adam_moments(state: Mapping[str, Record], gradients: Gradients, betas=(0.9, 0.98)) -> State:
    """One optimizer step with learning rate 0: only the moments and the step move."""
    return {
        name: Record(
            record.weight,
            betas[0] * record.exp_avg + (1 - betas[0]) * gradients[name],
            betas[1] * record.exp_avg_sq + (1 - betas[1]) * gradients[name].square(),
            record.step + 1,
        )
        for name, record in state.items()
    }


def same_block(left: State, left_block: int, right: State, right_block: int) -> bool:
    """Whether two blocks are equal bitwise, moments and steps included."""
    mine, other = f"blocks.{left_block}.", f"blocks.{right_block}."
    names = [name.removeprefix(mine) for name in left if name.startswith(mine)]
    return bool(names) and all(same_record(left[mine + name], right[other + name]) for name in names)


def same_record(left: Record, right: Record) -> bool:
    tensors = zip(left.tensors(), right.tensors(), strict=True)
    return left.step == right.step and all(torch.equal(a, b) for a, b in tensors)


def worst(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """The largest difference, relative to the largest entry of any tensor."""
    assert left.keys() == right.keys()
    scale = max(tensor.abs().max().item() for tensor in right.values())
    return max((left[name] - right[name]).abs().max().item() for name in left) / scale
