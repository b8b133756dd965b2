"""Text in UTF-16 or UTF-32, as some editors and spreadsheets save it, read as UTF-8."""

import codecs
from collections import Counter
from typing import Any

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 1000


class AsUtf8:
    """A stream of bytes whose text is in UTF-8, whatever it is in the file."""

    def __init__(self, stream: Any, counts: Counter) -> None:
        """`counts` gets one of "other_encodings" if the text is not in UTF-8."""
        self._stream, self._counts = stream, counts
        self._decoder: codecs.IncrementalDecoder | None = None
        self._begun = False

    def read1(self, size: int) -> bytes:
        while True:
            data = self._stream.read1(size)
            if not self._begun:
                self._begun = True
                self._decoder = self._decoder_of(data)
            if self._decoder is None:
                return data
            text = self._decoder.decode(data, final=not data).encode("utf-8", "replace")
            if text or not data:
                return text

    def _decoder_of(self, data: bytes) -> codecs.IncrementalDecoder | None:
        encoding = _encoding(data)
        if encoding is None:
            return None
        self._counts["other_encodings"] += 1
        return codecs.getincrementaldecoder(encoding)("replace")


def _encoding(data: bytes) -> str | None:
    """By the byte order mark, or by zeros in every second byte, which most scripts have there; None: UTF-8."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    sample = data[:_SAMPLE_BYTES]
    first, second = sample[0::2].count(0), sample[1::2].count(0)
    most = 0.4 * (len(sample) // 2)
    if second > most and not first:
        return "utf-16-le"
    if first > most and not second:
        return "utf-16-be"
    return None
