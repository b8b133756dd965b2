"""Where matrices are put together: every element arrives once, every holder gets its own back, and work is spread."""

from itertools import product

import pytest
import torch

from model.config import BertConfig
from model.parallel.layout import ParallelLayout
from pretrain.optim.muon.homes import Homes
from pretrain.optim.muon.matrices import Matrix, matrices_of, update_flops
from pretrain.optim.muon.newton_schulz import orthogonalize
from pretrain.optim.muon.traffic import division, most_sent

CONFIG = BertConfig(
    layers=3, hidden=16, heads=4, head_dim=3, ffn=40, vocab_size=128, low_rank={"feedforward.output": 4}
)
CASES = list(product((1, 2, 4), (1, 2, 5), (0, 1, 3), (False, True)))


def homes_of(tp: int, dp: int, stage: int, heads_apart: bool = False, config: BertConfig = CONFIG) -> Homes:
    return Homes.of(division(config, ParallelLayout(tp, dp), stage), heads_apart, steps=5)


def held(homes: Homes, matrix: Matrix, rank: int) -> tuple[int, int]:
    is_elsewhere = matrix.shard is not None and matrix.shard != rank % homes.division.layout.tensor_parallel
    return (0, 0) if is_elsewhere else homes.division.held(matrix.name, rank)


@pytest.mark.parametrize(("tp", "dp", "stage", "heads_apart"), CASES)
def test_every_element_arrives_once_and_all_who_hold_it_get_it_back(tp, dp, stage, heads_apart):
    homes = homes_of(tp, dp, stage, heads_apart)
    rounds = [homes.rounds(rank) for rank in range(tp * dp)]
    assert len({len(own) for own in rounds}) == 1
    for turn in zip(*rounds, strict=True):
        assert len({(round.is_gathered, round.is_returned) for round in turn}) == 1, "all ranks take part, or none"
        for one, other in product(range(tp * dp), repeat=2):
            assert turn[one].given.get(other, []) == turn[other].gathered.get(one, [])
            assert turn[one].taken.get(other, []) == turn[other].returned.get(one, [])
    for homed in homes.matrices:
        matrix, home = homed.matrix, homed.home
        (round,) = [round for round in rounds[home] if matrix in round.homed]
        arrived = [span for spans in (round.kept, *round.gathered.values()) for span in spans if span.matrix == matrix]
        elements = sorted((span.shard, span.start + index) for span in arrived for index in range(span.numel))
        assert len(elements) == len(set(elements)) == matrix.numel
        for rank in range(tp * dp):
            returned = [span for span in round.returned.get(rank, []) if span.matrix == matrix]
            is_holder = rank != home and held(homes, matrix, rank)[1] > 0
            assert [(span.start, span.numel) for span in returned] == [held(homes, matrix, rank)] * is_holder


@pytest.mark.parametrize(("tp", "dp", "stage", "heads_apart"), CASES)
def test_what_lies_whole_on_a_rank_does_not_travel_there(tp, dp, stage, heads_apart):
    homes = homes_of(tp, dp, stage, heads_apart)
    rounds = [round for rank in range(tp * dp) for round in homes.rounds(rank)]
    gathered = {span.matrix for round in rounds for spans in round.gathered.values() for span in spans}
    for matrix in gathered:
        assert all(held(homes, matrix, rank)[1] < matrix.numel for rank in range(tp * dp))
    if dp == 1 and (tp == 1 or heads_apart):
        attention = {homed.matrix for homed in homes.matrices if ".attention." in homed.matrix.name}
        assert not gathered & attention, "head by head, tensor parallelism cuts no matrix of attention"


def test_work_is_spread_over_all_ranks():
    base = BertConfig.preset("base")
    for tp, stage in product((1, 2), (0, 3)):
        load = homes_of(tp, 8 // tp, stage, config=base).loads()
        assert max(load) < 1.05 * sum(load) / 8
    load = homes_of(1, 8, 1, config=base).loads()
    assert max(load) < 1.2 * sum(load) / 8, "at ZeRO 1 most matrices stay where they are, and so does their work"


def test_the_size_of_matrices():
    """[outputs, inputs]; head by head the heads are apart on both sides."""
    found = {matrix.name: matrix.size for matrix in matrices_of(division(CONFIG, ParallelLayout(), 0).table.values())}
    apart = {
        matrix.name: matrix.size for matrix in matrices_of(division(CONFIG, ParallelLayout(), 0).table.values(), True)
    }
    assert found["blocks.0.attention.query.weight"] == (1, 12, 16)
    assert found["blocks.0.attention.output.weight"] == (1, 16, 12)
    assert apart["blocks.0.attention.query.weight"] == (4, 3, 16)
    assert apart["blocks.0.attention.output.weight"] == (4, 16, 3)
    assert found["blocks.0.feedforward.output.down"] == apart["blocks.0.feedforward.output.down"] == (1, 4, 40)
    assert not any(name.startswith(("embeddings", "mlm", "pooler")) or "norm" in name for name in found)


def test_a_tiny_matrix_is_orthogonalized_and_zeros_stay():
    """Squares of its elements underflow in fp32."""
    matrix = torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalize(1e-25 * matrix, 5), orthogonalize(matrix, 5))
    assert not orthogonalize(1e-44 * matrix.sign(), 5).isnan().any()
    assert not orthogonalize(0 * matrix, 5).any()


def test_newton_schulz_at_base_takes_the_flops_of_its_products():
    """X X^T, its square and the product with X, five times: 1.6 TFLOP a step, whatever the batch."""
    square, ffn = 6 * 768**3, 4 * 768**2 * 3072 + 2 * 768**3
    matrices: list[Matrix] = list(matrices_of(division(BertConfig.preset("base"), ParallelLayout(), 0).table.values()))
    total = sum(update_flops(matrix.size, 5) for matrix in matrices)
    assert total == 5 * 12 * (4 * square + 2 * ffn)
    assert total == pytest.approx(1.63e12, rel=0.01)


def test_a_step_at_zero_3_sends_about_twice_what_a_rank_holds():
    """There and back: its part of all matrices, and of the matrices at home all but its own part."""
    base = BertConfig.preset("base")
    numel = sum(spec.numel for spec in division(base, ParallelLayout(), 0).table.values() if spec.is_layer_matrix)
    sent, _, _ = most_sent(homes_of(1, 8, 3, config=base))
    assert sent == pytest.approx(2 * numel / 8 * 7 / 8, rel=0.1)
    assert most_sent(homes_of(1, 1, 3, config=base))[0] == 0
