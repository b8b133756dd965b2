"""Parses the command line; what is wrong with it becomes one line like every other mistake."""

import functools
import io
import re
import sys
from collections.abc import Callable, Sequence

import tyro

from model.errors import UserError

BOX = "│╭╮╰╯─|+-"


def run_verb(verbs: dict[str, Callable], arguments: list[str], prog: str, description: str) -> None:
    """Calls the verb that the arguments name. Raises UserError instead of printing tyro's box of several lines."""
    stderr, box = sys.stderr, io.StringIO()

    def uncovered(verb: Callable) -> Callable:
        """Errors are tyro's until the verb is called, and its own from then on."""

        @functools.wraps(verb)
        def call(*args, **kwargs):
            sys.stderr = stderr
            return verb(*args, **kwargs)

        return call

    sys.stderr = box
    try:
        covered = {name: uncovered(verb) for name, verb in verbs.items()}
        tyro.extras.subcommand_cli_from_dict(covered, args=arguments, prog=prog, description=description)
    except SystemExit as stop:
        if stop.code != 2 or not box.getvalue():
            raise
        verb = arguments[0] if arguments and arguments[0] in verbs else ""
        raise UserError(f"{_one_line(box.getvalue())}; see {' '.join([prog, verb]).strip()} --help") from None
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
        raise UserError(f"{option} {text!r} is no span of steps; write FIRST:LAST, for example 100:110")
    return int(first), int(last)


def _one_line(box: str) -> str:
    """The message inside a box, without its title and its hints, and what the argument takes."""
    lines = [line.strip(BOX + " ") for line in box.splitlines()[1:]]
    message = []
    for line, next_line in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("Argument helptext"):  # then the argument as the usage has it: --lr [FLOAT [FLOAT ...]]
            message[-1] += f"; it takes {next_line.partition(' ')[2]}"
            break
        if line.startswith("For full helptext"):
            break
        if line:
            message.append(line)
    text = " ".join(message).removesuffix(" (required)").removesuffix(".")
    # An option that may be left out is a choice between None and its type, which is nobody's concern.
    choice = r"no type matching .* could be instantiated from \['(.*?)'\]\..*?(; it takes|$)"
    text = re.sub(choice, r"'\1' cannot be read\2", text)
    return re.sub(r"\{None\}\||'None', |, 'None'", "", text)
