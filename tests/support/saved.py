"""A small state to save, another one at every step, and damage to the files it is in."""

from pathlib import Path

import torch.distributed as dist

from growth.state import Record, TrainingState, fresh_state
from model.config import BertConfig

CONFIG = BertConfig(layers=2, hidden=32, heads=2, ffn=48, vocab_size=90, max_positions=16, sharing=1)


def state_at(step: int) -> TrainingState:
    """This rank's part of a made-up state, another one at every step."""
    state = fresh_state(CONFIG, step, dist.get_rank(), dist.get_world_size())
    state.steps = dict.fromkeys(state.steps, step)
    state.records = {
        name: Record(record.weight, record.weight * 2, record.weight**2, step) for name, record in state.records.items()
    }
    return state


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
