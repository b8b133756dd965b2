"""How ranks leave a run before its end: together, or because another rank has gone."""

import re

from model.errors import UserError
from pretrain.launch.outcome import ExitCode


class Stop(UserError):
    """Raised on every rank at the same point: the process group is whole, and all leave together."""

    def __init__(self, message: str, code: int = ExitCode.MISTAKE):
        super().__init__(message)
        self.code = code


class PeerLost(UserError):
    """Another rank is gone: with its process, its node or the network. This one can only leave."""


def lost_peer(error: RuntimeError) -> PeerLost | None:
    """What gloo's or NCCL's error means when it tells of a connection that broke; None for other errors."""
    broken = BROKEN_CONNECTION.search(str(error))
    return PeerLost(f"the connection to another rank broke ({broken[0]}); start again to resume") if broken else None


BROKEN_CONNECTION = re.compile(
    r"(Connection closed by peer|Connection reset by peer)( \[[^\]]*\](:\d+)?)?"
    r"|Broken pipe|Socket closed|remote process exited or there was a network error"
)
