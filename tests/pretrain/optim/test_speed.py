"""The comparison of optimizers by the time of a step."""

from pretrain.optim import OPTIMIZERS
from pretrain.optim.speed import measure


def test_every_optimizer_but_muon_is_timed(capsys):
    """Muon multiplies matrices: the table of a step's parts has its time."""
    measure("tiny", rounds=1, device="cpu")
    timed = {line[:26].strip() for line in capsys.readouterr().out.splitlines()[2:]}
    assert timed >= {optimizer.name for optimizer in OPTIMIZERS} - {"muon"}
