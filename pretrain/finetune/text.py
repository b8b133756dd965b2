"""Reading text files, and checking that texts fit into the maximum length."""

from pathlib import Path

from model.errors import UserError


def read_text(path: Path) -> str:
    """The text of a file, line ends unchanged, without a byte order mark. Raises UserError if it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as fault:
        raise UserError(f"{path} cannot be read: {fault.strerror}; name another folder by --data") from None
    except UnicodeDecodeError as fault:
        raise UserError(f"{path} is not UTF-8 (its byte {fault.start}); unpack it, or convert it by iconv") from None


def check_length(max_length: int, least: int, other: str) -> None:
    """Raises UserError if examples of `max_length` tokens have no room for text next to what `other` names."""
    if max_length < least:
        advice = f"give --max-length {least} or more, with a model that reads that many"
        raise UserError(f"examples of {max_length} tokens have no room for text next to {other}; {advice}")
