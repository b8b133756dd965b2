"""Host memory between the stages of a run."""

import ctypes


def return_freed_memory() -> None:
    """Gives the system what is free inside glibc's heap. Without glibc nothing happens.

    An engine is built beside the state it starts from. Freed, that state would stay in this process: in pieces, between
    tensors that live on, where few of the activations fit.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
