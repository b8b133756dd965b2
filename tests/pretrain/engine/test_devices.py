"""With optimizer offload the state is on the host, but collectives run where the ranks compute.

Which device that is, one place decides.
"""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from growth.change import identity
from pretrain.checkpoint import even
from pretrain.checkpoint.even import evenly
from pretrain.checkpoint.parts import Piece
from pretrain.engine import distributed, exchange, host_copy
from pretrain.engine.attach import partition
from pretrain.engine.coefficients import coefficients
from pretrain.engine.equal_units import equal_units
from pretrain.engine.exchange import division_of, read_state, write_state
from pretrain.engine.host_copy import Staging
from pretrain.engine.replicas import different_replica, gather
from pretrain.engine.scatter import scatter
from pretrain.engine.spread import Plan, fetch_from
from pretrain.engine.zero import basic_optimizer, destroy, fragments
from pretrain.optim.groups import GroupRules
from pretrain.optim.lamb.step import Lamb
from pretrain.optim.layerwise import LayerwiseOptimizer
from pretrain.optim.muon.step import Muon
from pretrain.training.hooks import update_size
from pretrain.training.hooks.update_size import update_sizes
from tests.support.harness import CONFIG, settings, start, train
from tests.support.pretend_device import pretend_device
from tests.support.workers import pool

BUFFER = 4096
"""Bytes of what may go between host and device at once."""

SLIM = CONFIG.replace(slimming={"heads": 1e-4, "ffn": 1e-4})


def offloaded() -> None:
    """What ranks say to each other about an engine whose state is on the host."""
    engine = start(SLIM, settings(1, stage=2))
    staging, largest = Staging(BUFFER), 4 * CONFIG.vocab_size * CONFIG.hidden
    before = {name: fragment.weight.clone() for name, fragment in fragments(engine).items()}
    train(engine, 0, 1)
    after = {name: fragment.weight for name, fragment in fragments(engine).items()}

    def said() -> list:
        state = read_state(engine)
        names = list(state.owners)
        own = {name: record.weight for name, record in state.records.items()}
        plan = Plan.of(identity(SLIM), state)
        plan.owners = {name: 1 - owner for name, owner in plan.owners.items()}  # every record travels
        with patch.object(even, "divided", lambda config, num_ranks: {Piece(name, 0, 1): 1 for name in names}):
            parts = evenly(state)
        return [
            update_sizes(before, after, sorted(names)),
            {name: values.tolist() for name, values in coefficients(engine).items()},
            fetch_from(state)(names[0]).weight.tolist(),
            {name: record.weight.tolist() for name, record in plan.records(names).items()},
            {name: part.tolist() for name, part in scatter(names, division_of(engine), state.owners, own)},
            {piece.name: [tensor.tolist() for tensor in tensors] for piece, tensors in parts.tensors.items()},
            equal_units(engine),
            gather(torch.tensor([dist.get_rank()])).tolist(),
            different_replica(engine),
        ]

    expected = said()
    with patch.object(host_copy, "_of_this_rank", lambda: staging), pretend_device() as crossed:
        assert said() == expected
    assert max(crossed) <= BUFFER < largest, max(crossed)
    assert expected[-2:] == [[[0], [1]], None]
    destroy(engine)


def test_collectives_over_offloaded_state_run_on_the_device():
    pool(2).run(offloaded)


def written(stage: int) -> None:
    """A state that owners send to the ranks which hold its parts."""
    engine = start(CONFIG, settings(1, stage))
    local, state = fragments(engine), read_state(engine)

    def write() -> dict[str, list]:
        for fragment in local.values():
            for tensor in fragment.tensors():
                tensor.fill_(-1)
        with patch.object(exchange, "publish_all"):  # DeepSpeed's messages, from where its engine was built
            write_state(engine, Plan.of(identity(CONFIG), state))
        return {name: [tensor.tolist() for tensor in fragment.tensors()] for name, fragment in local.items()}

    expected = write()
    with pretend_device():
        assert write() == expected
    destroy(engine)


@pytest.mark.parametrize("stage", [0, 2])
def test_an_offloaded_state_is_written_through_the_device(stage):
    pool(2).run(written, stage)


def stepped(optimizer: type[LayerwiseOptimizer]) -> None:
    """Steps of an optimizer whose ranks speak to each other, from the same state."""
    chosen = replace(
        settings(1, stage=2), make_optimizer=optimizer, groups=GroupRules(orthogonalizes=optimizer is Muon)
    )
    engine = start(CONFIG, chosen)
    inner, local = basic_optimizer(engine), fragments(engine)
    start_state = [tensor.clone() for fragment in local.values() for tensor in fragment.tensors()]

    def step() -> list[list[float]]:
        tensors = [tensor for fragment in local.values() for tensor in fragment.tensors()]
        for tensor, value in zip(tensors, start_state, strict=True):
            tensor.copy_(value)
        for group in inner.param_groups:
            group["lr"] = 1e-3
            for flat in group["params"]:
                flat.grad = torch.linspace(-1, 1, flat.numel())
                inner.state[flat]["step"].fill_(1)
        inner.attach(replace(partition(engine), num_calls=1))
        inner.step()
        return [tensor.tolist() for tensor in tensors]

    expected = step()
    with pretend_device() as crossed:
        assert step() == expected
    assert crossed
    destroy(engine)


@pytest.mark.parametrize("optimizer", [Lamb, Muon])
def test_an_offloaded_optimizer_speaks_on_the_device(optimizer):
    pool(2).run(stepped, optimizer)


def host_tensor() -> str:
    with pretend_device():
        dist.all_reduce(torch.zeros(2, device=distributed.device()))
        with pytest.raises(AssertionError) as refused:
            dist.all_reduce(torch.zeros(2))
    return str(refused.value)


def test_the_pretended_device_refuses_tensors_of_the_host():
    assert pool(2).run(host_tensor)[0] == "all_reduce over a tensor of the host"


def test_where_deepspeed_takes_the_cpu_everything_does(monkeypatch):
    """A machine with GPUs, and DS_ACCELERATOR=cpu."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert distributed.device() == torch.device("cpu") and not distributed.computes_on_gpu()


def test_the_copy_of_the_weights_around_a_change_is_on_the_host(monkeypatch):
    """Right after a model has grown, a GPU may have no room for it."""
    with pretend_device():
        on_device = torch.ones(2, device=distributed.device())
        monkeypatch.setattr(update_size, "weights", lambda trainer: {"weight": on_device})
        copy = update_size.UpdateSizes._copy(None)["weight"]
        assert on_device.device != copy.device == torch.device("cpu")
