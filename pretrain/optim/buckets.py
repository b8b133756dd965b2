"""Buckets of gradients, for a clipping that needs no norm of the whole gradient (pretrain/engine/clipping.py)."""

from model.parameters import parameter_table
from model.shape import Shape

NUMEL_PER_MB = 250_000
"""Elements of fp32. Buckets do not depend on the precision."""


def gradient_buckets(shape: Shape, megabytes: float) -> list[list[str]]:
    """Names of the trained parameters, in the order of the parameter table: each bucket takes as many as fit into its
    megabytes (10^6 bytes of fp32). A larger parameter has a bucket of its own."""
    buckets: list[list[str]] = []
    numel = 0
    for name, spec in parameter_table(shape).items():
        if not spec.trainable:
            continue
        if not buckets or numel + spec.numel > megabytes * NUMEL_PER_MB:
            buckets.append([])
            numel = 0
        buckets[-1].append(name)
        numel += spec.numel
    return buckets
