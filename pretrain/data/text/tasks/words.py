"""What a word is to datatrove's filters and to its MinHash.

Its own way is spaCy's tokenizer, which needs 22 packages more. This is a pattern, for any script: letters and digits
that hang together, an ideograph or a kana each by itself, any other sign.
"""

import re

from datatrove.utils.word_tokenizers import WordTokenizer, simple_span_tokenize

from pretrain.data.text.sentences import split_sentences

_BY_THEMSELVES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_BY_THEMSELVES}]|[^\W{_BY_THEMSELVES}]+|[^\w\s]").findall


class Words(WordTokenizer):
    """Takes the place of datatrove's `language`."""

    def word_tokenize(self, text: str) -> list[str]:
        return _WORDS(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return split_sentences(text)

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return list(simple_span_tokenize(text, self.sent_tokenize(text)))
