"""Arguments that verbs share, and the parser: what is wrong with a command line becomes one line."""

import functools
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from model.errors import UserError

RecipeName = Annotated[Positional[str], arg(name="recipe", metavar="RECIPE")]
OptionalRecipe = Annotated[Positional[str], arg(name="recipe", metavar="RECIPE", help_behavior_hint="")]
CheckpointPath = Annotated[Positional[Path], arg(name="checkpoint", metavar="CHECKPOINT")]
Overrides = Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="KEY=VALUE")]
OutputFolder = Annotated[Path, arg(name="output", aliases=("--out",), metavar="FOLDER")]
Plugins = Annotated[UseAppendAction[tuple[str, ...]], arg(name="plugin", metavar="FILE", help_behavior_hint="")]

BOX = "│╭╮╰╯─|+"


def call_verb(function: Callable[..., int | None], arguments: Sequence[str], prog: str) -> int | None:
    """Calls a verb with the arguments of its command line; gives what it returns.

    Raises UserError instead of printing tyro's box of several lines.
    """
    stderr, box = sys.stderr, io.StringIO()

    @functools.wraps(function)
    def call(*args, **kwargs):
        sys.stderr = stderr  # errors are tyro's until the verb is called, and the verb's from then on
        return function(*args, **kwargs)

    sys.stderr = box
    try:
        return tyro.cli(call, args=list(arguments), prog=prog)
    except SystemExit as stop:
        if stop.code != 2 or not box.getvalue():
            raise
        raise UserError(f"{_in_our_words(_one_line(box.getvalue()), arguments)}; see {prog} --help") from None
    finally:
        sys.stderr = stderr


def check_counts(**options: Sequence[int | None]) -> None:
    """Raises UserError for a number below 1; None is an option left out."""
    for option, counts in options.items():
        for count in counts:
            if count is not None and count < 1:
                raise UserError(f"--{option.replace('_', '-')} {count} is too few; give at least 1")


def read_span(option: str, text: str) -> tuple[int, int] | None:
    """`100:110` -> (100, 110); nothing -> None."""
    if not text:
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) < int(last)):
        raise UserError(f"{option} {text!r} is not a range of steps; write FIRST:LAST, for example 100:110")
    return int(first), int(last)


def read_nodes(text: str) -> tuple[int | None, int | None]:
    """`4:16` -> (4, 16), the fewest nodes and the most; `8` -> (8, 8); nothing -> (None, None)."""
    if not text:
        return None, None
    first, colon, last = text.partition(":")
    if not (first.isdecimal() and (last or first).isdecimal() and 0 < int(first) <= int(last or first)) or (
        colon and not last
    ):
        raise UserError(f"--nodes {text!r} is not a number of nodes; write MIN:MAX, for example 4:16")
    return int(first), int(last or first)


def _one_line(box: str) -> str:
    """The message inside a box, without its title and its hints, and what the argument takes."""
    lines = [line.strip(BOX + " ") for line in box.splitlines()[1:]]
    message: list[str] = []
    for line, next_line in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("Argument helptext"):  # then the argument as the usage has it: --lr [FLOAT [FLOAT ...]]
            message[-1] += f"; it takes {next_line.partition(' ')[2]}"
            break
        if line.startswith("For full helptext"):
            break
        if line.strip("-"):
            message.append(line)
    text = re.sub(r"(?<!\.)\.$", "", " ".join(message).removesuffix(" (required)"))
    # An option that may be left out is a choice between None and its type, which is nobody's concern.
    choice = r"no type matching .* could be instantiated from \['(.*?)'\]\..*?(; it takes|$)"
    text = re.sub(choice, r"'\1' cannot be read\2", text)
    return re.sub(r"\{None\}\||'None', |, 'None'", "", text)


NUMBERS = {"INT": "a whole number", "FLOAT": "a number"}


def _in_our_words(text: str, arguments: Sequence[str]) -> str:
    """tyro's message in the words of this project's others; one that has another form stays as it is."""
    if found := re.match(r"Missing from [^:]*: (\S+)(?: STR| PATH| INT)? (.*?)(?: \(required\)|$)", text):
        return f"{found[1]} is missing: {found[2].rstrip('.')}"
    if found := re.match(r"Missing value for argument '(.*?)'", text):
        if found[1].startswith("-"):
            return f"{found[1]} needs a value"
        return f"{found[1].upper()} is missing; given is only {' '.join(arguments)}"
    if found := re.match(r"Unrecognized options: ([^, ]*).*?(?:Perhaps you meant: .*?(--[\w-]+)|$)", text):
        kind = "option" if found[1].startswith("-") else "argument"
        return f"unknown {kind} {found[1]}" + (f" (did you mean {found[2]}?)" if found[2] else "")
    if found := re.match(r"Error parsing (--\S+): .*?('[^']*')(?: cannot be read)?; it takes (INT|FLOAT)$", text):
        return f"{found[1]} must be {NUMBERS[found[3]]}, not {found[2]}"
    return text
