"""How the ranks and the rows of a stage are divided."""

from model.errors import UserError


def data_parallel_size(tensor_parallel: int, num_ranks: int) -> int:
    """Ranks that each take their own rows; raises UserError if the ranks cannot be divided."""
    if num_ranks < 1:
        raise UserError(f"{num_ranks} processes cannot train; start at least one (--nproc)")
    if num_ranks % tensor_parallel:
        raise UserError(
            f"layout.tensor_parallel {tensor_parallel} does not divide the {num_ranks} processes; change one of them"
        )
    return num_ranks // tensor_parallel


def micro_batches(rows: int, micro: int | None, data_parallel: int) -> tuple[int, int]:
    """(rows that a rank computes at a time, micro-batches per step); `micro` None: all rows of a rank at once."""
    if rows % data_parallel:
        raise UserError(
            f"batch.global {rows} is not a multiple of the {data_parallel} data-parallel ranks; "
            f"choose a multiple of {data_parallel}"
        )
    per_rank = rows // data_parallel
    micro = micro or per_rank
    if per_rank % micro:
        raise UserError(
            f"batch.global {rows} over {data_parallel} data-parallel ranks is {per_rank} rows each, "
            f"not a multiple of batch.micro {micro}; choose a divisor of {per_rank}"
        )
    return micro, per_rank // micro
