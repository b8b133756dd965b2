"""What all ranks decide together."""

import torch.distributed as dist

from pretrain.exits import Stop


def raise_together(error: Exception | None) -> None:
    """Raises Stop on all ranks when any of them has an error: the first one's message. Collective."""
    messages: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(messages, None if error is None else str(error))
    for message in filter(None, messages):
        raise Stop(message)
