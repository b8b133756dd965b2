"""Where the project's files are."""

from pathlib import Path

HOME = Path(__file__).parents[2]
