"""What every task asks of its files, and of the length to which it cuts their texts."""

from pathlib import Path

from model.errors import UserError


def read_text(path: Path) -> str:
    """A file as it is, line ends included, less a byte order mark. Raises UserError for what is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as fault:
        raise UserError(f"{path} cannot be read: {fault.strerror}; name another folder by --data") from None
    except UnicodeDecodeError as fault:
        raise UserError(f"{path} is not UTF-8 (its byte {fault.start}); unpack it, or convert it by iconv") from None


def check_length(max_length: int, least: int, beside: str) -> None:
    """Raises UserError where examples of `max_length` tokens have no room for text beside what is named."""
    if max_length < least:
        advice = f"give --max-length {least} or more, and a model that reads so many"
        raise UserError(f"examples of {max_length} tokens have no room for text beside {beside}; {advice}")
