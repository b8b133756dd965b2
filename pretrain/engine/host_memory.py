"""Host memory between the stages of a run."""

import ctypes


def return_freed_memory() -> None:
    """Returns free memory in glibc's heap to the system. Without glibc nothing happens.

    An engine is built while the state it starts from is still there. Once freed, that state would stay in the process:
    in pieces between tensors that live on, where few activations fit.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
