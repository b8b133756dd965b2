"""The measured gradient correlation is the cosine of per-use gradients, in any layout."""

from collections.abc import Callable
from itertools import combinations

import pytest
import torch

from growth.change import map_blocks
from growth.state import fresh_state
from model.bert import BertForPreTraining
from model.parallel.layout import ParallelLayout
from model.parameters import parameter_table
from pretrain.engine.correlation import gradient_correlation, neighbour_correlation
from pretrain.engine.spread import fetch_from
from tests.support.harness import CONFIG, GLOBAL_ROWS, global_batch, rows
from tests.support.running import layout_of
from tests.support.workers import pool

SHARED = CONFIG.replace(layers=4, sharing=(0, 1, 0, 0), ffn=64)


def measured(tp: int, measure: Callable = gradient_correlation) -> dict[str, float]:
    import torch.distributed as dist

    layout = layout_of(tp)
    layout.install()
    state = fresh_state(SHARED, 1, dist.get_rank(), dist.get_world_size())
    count = GLOBAL_ROWS // layout.data_parallel
    batch = rows(global_batch(SHARED, 0), dist.get_rank() // tp * count, count)
    return measure(SHARED, fetch_from(state), layout, torch.float32, [batch])


def neighbours(tp: int) -> dict[tuple[int, int], float]:
    return measured(tp, neighbour_correlation)


def untied_clone() -> BertForPreTraining:
    """With gradients: a block for each layer, with the weights of the shared one."""
    untied = SHARED.replace(sharing=None)
    state = fresh_state(SHARED, 1)

    def weight(name: str) -> torch.Tensor:
        spec = parameter_table(untied)[name]
        block = SHARED.block_of(spec.block) if spec.block is not None else None
        return state.records[name if block is None else f"blocks.{block}.{spec.local_name}"].weight

    model = BertForPreTraining(untied)
    model.load_weights(weight)
    model(global_batch(SHARED, 0)).loss.backward()
    return model


def expected() -> dict[str, float]:
    model = untied_clone()
    result = {}
    for name, spec in parameter_table(SHARED).items():
        if spec.block == 0:
            gradients = [model.get_parameter(f"blocks.{layer}.{spec.local_name}").grad.flatten() for layer in (0, 2, 3)]
            cosines = [torch.cosine_similarity(a, b, dim=0).item() for a, b in combinations(gradients, 2)]
            result[name] = min(max(sum(cosines) / 3, 0.0), 1.0)
    return result


def of_layers_to_share() -> tuple[dict[str, float], dict[str, float]]:
    """Measured of a shared state, and of the same layers with a block each that are about to share."""
    layout = layout_of(1)
    layout.install()
    state, untied = fresh_state(SHARED, 1), SHARED.replace(sharing=None)
    batches, dtype = [global_batch(SHARED, 0)], torch.float32
    tied = gradient_correlation(SHARED, fetch_from(state), layout, dtype, batches)
    copies = map_blocks(SHARED, untied, [SHARED.block_of(layer) for layer in range(SHARED.layers)])

    def fetch(name: str):
        return copies.record(name, fetch_from(state))

    return tied, gradient_correlation(untied, fetch, layout, dtype, batches, SHARED)


@pytest.mark.parametrize("shape", [{"sharing": None}, {"sharing": (0, 0, 1, 2), "frozen_layers": 2}], ids=str)
def test_nothing_is_computed_where_no_neighbours_share(shape):
    def fetch(name: str):
        pytest.fail(f"{name} is read")

    config = SHARED.replace(**shape)
    assert neighbour_correlation(config, fetch, ParallelLayout(1, 1), torch.float32, [global_batch(config, 0)]) == {}


def test_correlation_before_sharing():
    [(tied, about_to_be)] = pool(1).run(of_layers_to_share)
    assert tied == about_to_be


@pytest.mark.parametrize(("ranks", "tp"), [(1, 1), (2, 1), (2, 2)])
def test_correlation_of_uses(ranks, tp):
    reference = expected()
    assert max(reference.values()) > 0.1
    for found in pool(ranks).run(measured, tp):
        assert found.keys() == reference.keys(), "only blocks with several uses"
        for name, value in reference.items():
            # The key bias has a gradient of zero in theory: what is left of it is rounding.
            if not name.endswith("key.bias"):
                assert found[name] == pytest.approx(value, abs=2e-4), name


@pytest.mark.parametrize(("ranks", "tp"), [(1, 1), (2, 1), (2, 2)])
def test_correlation_of_neighbouring_uses(ranks, tp):
    """Layers 0, 2 and 3 share a block: 2 follows 0. A layer is one vector of all its gradients."""
    layers = dict(untied_clone().blocks.named_children())
    whole = {name: torch.cat([each.grad.flatten() for each in layers[name].parameters()]) for name in layers}
    pairs = {
        pair: torch.cosine_similarity(*(whole[str(layer)] for layer in pair), dim=0).item() for pair in ((0, 2), (2, 3))
    }
    for found in pool(ranks).run(neighbours, tp):
        assert found == pytest.approx(pairs, abs=1e-5)
