"""What all HTML pages share: one style, and no need of a network or of another file."""

from collections.abc import Iterable
from html import escape
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"


def style() -> str:
    return (TEMPLATES / "page.css").read_text("utf-8")


def write_html(file: Path, title: str, parts: Iterable[str]) -> None:
    """Writes a page of these parts, which are HTML, under its title."""
    head = f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{style()}</style>"
    file.write_text("\n".join([head, f"<h1>{escape(title)}</h1>", *parts]) + "\n", "utf-8")
