"""Parses the command line; what is wrong with it becomes one line like every other mistake."""

import functools
import io
import sys
from collections.abc import Callable

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
    return " ".join(message).removesuffix(" (required)").removesuffix(".")
