"""The table of messages is what a step sends: counted while it runs, on one of many ranks with nobody to answer."""

from collections import Counter
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from model.config import BertConfig
from model.parallel.layout import ParallelLayout
from pretrain.optim.layerwise import Part, Segment
from pretrain.optim.muon.homes import Homes
from pretrain.optim.muon.step import Muon, _Step
from pretrain.optim.muon.traffic import division, most_sent

CONFIG = BertConfig(layers=5, hidden=16, heads=4, ffn=40, vocab_size=128)


def step_of(homes: Homes, rank: int, tensor_parallel: int) -> Counter[str]:
    """Elements and messages that a rank sends in a step. What it computes is left out: it takes long."""
    sent: Counter[str] = Counter()

    def count(inbox: torch.Tensor, outbox: torch.Tensor, numel_from: list[int], numel_to: list[int], **_) -> mock.Mock:
        assert inbox.numel() == sum(numel_from) and outbox.numel() == sum(numel_to)
        sent.update(numel=outbox.numel(), messages=sum(numel > 0 for numel in numel_to))
        inbox.zero_()
        return mock.Mock()

    group = {"lr": 0.0, "weight_decay": 0.0}
    parts = {}
    for homed in homes.matrices:
        if rank in homed.held:
            gradient, weight, exp_avg = torch.zeros(3, homed.held[rank].numel)
            parts[homed.matrix.name] = Part(Segment(0, 0, len(weight)), group, 1, gradient, weight, exp_avg)
    muon = Muon([torch.nn.Parameter(torch.zeros(1))])
    with (
        mock.patch.object(dist, "all_to_all_single", side_effect=count),
        mock.patch("pretrain.optim.muon.step.orthogonalize", side_effect=lambda matrix, steps: matrix),
    ):
        _Step(muon, parts, tensor_parallel, torch.device("cpu")).run(homes.rounds(rank))
    return sent


@pytest.mark.parametrize(("stage", "ranks", "tp"), [(0, 4, 1), (1, 8, 1), (3, 8, 2)])
def test_a_step_sends_what_the_table_says(monkeypatch, stage, ranks, tp):
    """In several rounds, of a thousand elements each."""
    monkeypatch.setattr("pretrain.optim.muon.homes.ROUND_NUMEL", 1000)
    homes = Homes.of(division(CONFIG, ParallelLayout(tp, ranks // tp), stage), heads_apart=False, steps=5)
    found = []
    for rank in range(ranks):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
        try:
            found.append(step_of(homes, rank, tp))
        finally:
            dist.destroy_process_group()
    numel, messages, rounds = most_sent(homes)
    assert rounds > 1
    assert max(each["numel"] for each in found) == numel > 0
    assert max(each["messages"] for each in found) == messages
