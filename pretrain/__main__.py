"""The command line: finds the verb, calls it, and turns a user's mistake into one line and exit code 2."""

import os
import sys
from contextlib import nullcontext

from model.errors import UserError, nearest, one_line
from pretrain.cli import VERBS, verb_function
from pretrain.engine import signals
from pretrain.engine.exits import PeerLost, Stop
from pretrain.launch.environment import set_environment
from pretrain.launch.outcome import ExitCode, leave, stops_first
from pretrain.launch.rank import forget_ranks, is_rank
from pretrain.launch.requests import Requests
from pretrain.launch.start import is_first

HELP = """usage: {program} [VERB] [OPTIONS]

Espalier pretrains BERT while its shape changes, and loses nothing on the way.

{verbs}

Without a verb it runs the demo. `{program} VERB --help` explains the options of a verb.{more}
"""
ONLY_HERE = """
`./launch.sh test` runs the test suite and passes its arguments to pytest; `./launch.sh check` runs the static checks.
`./launch.sh --here VERB` uses the Python of the active environment and installs nothing."""


def main(arguments: list[str], program: str = "./launch.sh") -> int:
    """Runs one verb. Returns the exit code. `program`: what the user has called."""
    name, *rest = arguments or ["demo"]
    forget_ranks()
    if name in ("-h", "--help"):
        print(help_text(program))
        return ExitCode.DONE
    try:
        if name not in VERBS:
            raise UserError(f"verb {name!r} is unknown{nearest(name, VERBS)}; choose one of {', '.join(VERBS)}")
        set_environment()
        with Requests() if name == "train" and not is_rank() and "--dry-run" not in rest else nullcontext():
            from pretrain.cli.arguments import call_verb

            return call_verb(verb_function(name), rest, f"{program} {name}") or ExitCode.DONE
    except (Stop, PeerLost) as error:
        if is_first():
            print(f"espalier: {one_line(error)}", file=sys.stderr)
        return leave(error.code) if isinstance(error, Stop) else ExitCode.PEER_LOST
    except UserError as error:
        if stops_first(ExitCode.MISTAKE) if is_rank() else is_first():
            print(f"espalier: {one_line(error)}", file=sys.stderr)
        return ExitCode.MISTAKE
    except KeyboardInterrupt:  # a rank of `train` gets here only before it listens for signals
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # `plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    finally:
        signals.stop_listening()


def help_text(program: str) -> str:
    verbs = "\n".join(f"  {name:10}{summary}" for name, summary in VERBS.items())
    return HELP.format(program=program, verbs=verbs, more=ONLY_HERE if program.endswith(".sh") else "").rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
