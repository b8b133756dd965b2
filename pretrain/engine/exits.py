"""How ranks stop a run together before its end."""

from model.errors import UserError
from pretrain.launch.outcome import ExitCode


class Stop(UserError):
    """Raised on every rank at the same point: the process group is whole, and all leave together."""

    def __init__(self, message: str, code: int = ExitCode.MISTAKE):
        super().__init__(message)
        self.code = code
