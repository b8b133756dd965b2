"""How the ranks and the rows of a stage are divided."""

from model.errors import UserError
from pretrain.recipe.schema import Batch


def data_parallel_size(tensor_parallel: int, num_ranks: int) -> int:
    """Ranks that each take their own rows; raises UserError if the ranks cannot be divided."""
    if num_ranks < 1:
        raise UserError(f"{num_ranks} processes cannot train; start at least one (--nproc)")
    if num_ranks % tensor_parallel:
        raise UserError(
            f"layout.tensor_parallel {tensor_parallel} does not divide the {num_ranks} processes; change one of them"
        )
    return num_ranks // tensor_parallel


def micro_batches(batch: Batch, data_parallel: int, at_most: bool = False) -> tuple[int, int]:
    """(rows that a rank computes at a time, micro-batches per step).

    Without `batch.micro` a rank takes all of its rows at once. `at_most`: it may be less than `batch.micro`, as much as
    divides a rank's rows.
    """
    rows = batch.rows
    if rows % data_parallel:
        raise UserError(
            f"batch.global {rows} is not a multiple of the {data_parallel} data-parallel ranks; "
            f"choose a multiple of {data_parallel}"
        )
    per_rank = rows // data_parallel
    micro = batch.micro or per_rank
    if at_most:
        micro = max(size for size in range(1, min(micro, per_rank) + 1) if per_rank % size == 0)
    if per_rank % micro:
        raise UserError(
            f"batch.global {rows} over {data_parallel} data-parallel ranks is {per_rank} rows each, "
            f"not a multiple of batch.micro {micro}; choose a divisor of {per_rank}"
        )
    return micro, per_rank // micro
