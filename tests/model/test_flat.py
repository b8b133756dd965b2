"""A batch in one piece of memory: the same tensors, in one copy."""

from unittest.mock import patch

import torch

from model.batch import Batch, Runs
from model.flat import Flat


def test_a_batch_goes_to_a_gpu_in_one_copy() -> None:
    segments = torch.tensor([[1, 1, 2, 0], [1, 2, 2, 2]])
    batch = Batch(
        ids=torch.arange(8).view(2, 4),
        masked_positions=torch.tensor([1, 5, 7]),
        masked_ids=torch.tensor([], dtype=torch.int64),
        segments=segments,
        sentence_positions=torch.tensor([0]),
    )
    copied = []

    def copy(flat: Flat, device: torch.device) -> Flat:
        copied.append(flat.buffer)
        return flat

    with patch.object(Flat, "to_gpu", copy):
        moved = batch.to("cuda")
    (buffer,) = copied
    tensors = moved.tensors()
    assert tensors.keys() == batch.tensors().keys()
    for name, tensor in batch.tensors().items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), name
        assert tensors[name].data_ptr() % 16 == buffer.data_ptr() % 16
    expected = Runs.of(segments)
    assert moved.runs is not None and moved.runs.longest == expected.longest
    assert torch.equal(moved.runs.starts, expected.starts) and moved.runs.starts.dtype == torch.int32
