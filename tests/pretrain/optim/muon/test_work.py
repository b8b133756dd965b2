"""What `plan` counts of a step of Muon, against counts by hand on two ranks."""

import subprocess
import sys

import pytest

from model.config import BertConfig
from model.parallel.layout import ParallelLayout
from pretrain.optim.muon import MuonOptions
from pretrain.optim.muon.homes import ROUND_NUMEL, Homes
from pretrain.optim.muon.traffic import division
from pretrain.optim.muon.work import COMPUTED_WITH
from pretrain.optim.options import StepWork

CONFIG = BertConfig(layers=3, hidden=16, heads=4, ffn=40, vocab_size=128)
OPTIONS = MuonOptions(lr=1e-3)


def flops(work: StepWork) -> int:
    return sum(2 * m * k * n * times for m, k, n, times in work.products)


def test_one_rank_computes_all_and_sends_nothing():
    work = OPTIONS.step_work(CONFIG, 1, 1, 1)
    assert flops(work) == OPTIONS.step_flops(CONFIG)
    assert work.exchanged == ()
    matrices = 3 * (4 * 16 * 16 + 2 * 16 * 40)
    assert work.scratch_numel == COMPUTED_WITH * matrices


@pytest.mark.parametrize(("stage", "halves"), [(0, 0), (3, 1)])
def test_two_ranks_send_each_other_what_the_other_lacks(stage, halves):
    """All in one round. At ZeRO 0 whole matrices go from their home to the other rank; at ZeRO 3 halves come there and
    go back. What one sends the other receives, so both hold all of it, out and in."""
    homes = Homes.of(division(CONFIG, ParallelLayout(1, 2), stage), False, OPTIONS.steps)
    own = [sum(homed.matrix.numel for homed in homes.matrices if homed.home == rank) for rank in range(2)]
    work = OPTIONS.step_work(CONFIG, 1, 2, stage)
    assert flops(work) == max(homes.loads())
    assert work.exchanged == ((max(own) // 2,) * 2 if halves else (max(own),))
    assert work.scratch_numel == COMPUTED_WITH * max(own) + sum(own)


def test_at_zero_0_a_home_sends_each_matrix_to_every_replica():
    """Two rounds at a time are under way, of about four million elements each, to seven others and from them."""
    work = OPTIONS.step_work(BertConfig.preset("base"), 1, 8, 0)
    assert work.scratch_numel > 1.5 * (2 * 7 * ROUND_NUMEL)


def test_plan_counts_without_torch():
    code = (
        "import sys; from model.config import BertConfig; from pretrain.optim.section import Optimizer\n"
        "print(Optimizer(name='muon', lr=1e-3).chosen.step_work(BertConfig.preset('base'), 2, 2, 1).exchanged != ())\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
