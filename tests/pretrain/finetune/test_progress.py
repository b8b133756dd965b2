import torch

from pretrain.finetune import progress


def test_a_line_every_few_seconds_says_how_long_it_takes(monkeypatch, capsys):
    seconds = iter([0.0, 4.0, 12.0, 16.0, 24.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    lines = progress.Lines(3)
    for step in range(1, 5):
        lines(step, 20, torch.tensor(0.5))
    assert capsys.readouterr().err.splitlines() == [
        "seed 3: step 2 of 20, loss 0.5, 1:48 left",
        "seed 3: step 4 of 20, loss 0.5, 1:36 left",
    ]
