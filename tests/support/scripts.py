"""Made-up documents in thirteen scripts, with what trips tokenizers: marks, joiners, odd blanks, line ends, emoji."""

import random
import unicodedata

SCRIPTS = {
    "latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF)],
    "greek": [(0x391, 0x3CE), (0x1F00, 0x1FFC)],
    "cyrillic": [(0x400, 0x45F)],
    "armenian": [(0x531, 0x587), (0x589, 0x589)],
    "hebrew": [(0x5B0, 0x5BD), (0x5D0, 0x5EA)],
    "arabic": [(0x61B, 0x652), (0x66B, 0x6D5)],
    "devanagari": [(0x900, 0x97F)],
    "tamil": [(0xB82, 0xBCD)],
    "thai": [(0xE01, 0xE4F)],
    "ethiopic": [(0x1200, 0x1248), (0x1361, 0x1368)],
    "hangul": [(0x1100, 0x1112), (0x1161, 0x1175), (0xAC00, 0xAE00)],
    "japanese": [(0x3041, 0x3096), (0x3099, 0x309A), (0x30A1, 0x30FA), (0xFF66, 0xFF9F)],
    "han": [(0x4E00, 0x4F80), (0x20000, 0x20010), (0xF900, 0xF910)],
}
MARKS = "\u0301\u0323\u0308\u0327\u0345\u064b\u093c\u0f71\u0f72\u3099\ufe0f\u20dd"
JOINERS = ["\u200d", "\u200c", "\u00ad", "\u2060", "\ufeff", "\u200b"]
BLANKS = [" "] * 12 + ["  ", "\t", "\u00a0", "\u3000", "\u2003", "\n", "\u2028", "\u2029", "\x0c", "\x85", "\x0b"]
ENDS = [". ", "! ", "? ", "。", "！", "।", "؟ ", "። ", "։ ", ".\n\n", '." ', "…", ".\u2028"]
EMOJI = ["😀", "👩‍🚀", "👍🏽", "🇫🇷", "❤️", "🏴\U000e0067\U000e007f"]
TOKENS = [
    "[MASK]",
    "<s>",
    "##ing",
    "▁",
    "covid19",
    "New York",
    "<ent>",
    "ﬁ",
    "①",
    "½",
    "ǅ",
    "İ",
    "ß",
    "ſ",
    "K",
    "\ufffc",
    "x²",
    "3.14",
    "don't",
]


def documents_of_all_scripts(num_documents: int, seed: int = 0) -> list[str]:
    """Each mostly in one script, every fourth in several; stripped, none empty, no two alike."""
    draw = random.Random(seed)
    letters = {
        name: [chr(code) for first, last in ranges for code in range(first, last + 1) if is_assigned(code)]
        for name, ranges in SCRIPTS.items()
    }
    found: dict[str, None] = {}
    while len(found) < num_documents:
        scripts = draw.sample(list(letters), 3 if draw.random() < 0.25 else 1)
        alphabets = [letters[name] for name in scripts]
        document = "".join(_sentence(draw, alphabets) for _ in range(draw.randint(1, 5))).strip()
        if document:
            found[document] = None
    return list(found)


def is_assigned(code: int) -> bool:
    return unicodedata.category(chr(code)) != "Cn"


def _sentence(draw: random.Random, alphabets: list[list[str]]) -> str:
    parts = []
    for _ in range(draw.randint(1, 9)):
        parts += [_word(draw, draw.choice(alphabets)), draw.choice(BLANKS)]
    return "".join(parts[:-1]) + draw.choice(ENDS)


def _word(draw: random.Random, alphabet: list[str]) -> str:
    """A few letters of few kinds, so that words come again; now and then a mark, a joiner, an emoji or a token."""
    chance = draw.random()
    if chance < 0.06:
        return draw.choice([*EMOJI, *TOKENS])
    few = alphabet[draw.randrange(0, len(alphabet), 7) :][:5]
    word = draw.choices(few, k=draw.randint(1, 7))
    if chance < 0.16:
        word.insert(draw.randint(0, len(word)), "".join(draw.choices(MARKS, k=draw.randint(1, 3))))
    elif chance < 0.2:
        word.insert(draw.randint(0, len(word)), draw.choice(JOINERS))
    return "".join(word)
