"""The two regions of tensor parallelism, megatron-core's: what enters one is summed backward, what leaves it forward.

Import it only where tensors are cut: megatron-core compiles functions as it is imported, which loads torch's compiler
and takes seconds.
"""

import warnings

with warnings.catch_warnings():  # it misses Transformer Engine and apex, which nothing used here needs
    warnings.simplefilter("ignore")
    from megatron.core.tensor_parallel.mappings import (
        copy_to_tensor_model_parallel_region,
        reduce_from_tensor_model_parallel_region,
    )

__all__ = ["copy_to_tensor_model_parallel_region", "reduce_from_tensor_model_parallel_region"]
