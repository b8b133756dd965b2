"""Inputs damaged at random, by seed, and what a verb makes of them.

    kind = Kind("recipes", make, damage, arguments)
    case = damaged(kind, number, folder)            # case.arguments is a command line
    outcome = run_here(case)                        # or run_alone(case), in a process of its own
    assert fault(outcome) is None

A verb may accept a damaged input or reject it: in one line, with exit code 2, within SECONDS and MEMORY.
"""

import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pretrain.__main__ import main
from pretrain.launch.outcome import ExitCode
from tests.support.forking import FORKED

SECONDS = 5.0
"""Of processor time, imports aside: a busy machine is not a fault."""
MEMORY = 1 << 30
"""Bytes, on top of what the interpreter and its libraries take."""
LONGEST_LINE = 1600
DEEPEST = 20
"""Of the values that are damaged."""
ODD_VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 10**6, 10**9, 2**31, 2**63, 2**64, 10**30, 0.5, -0.5, 1e-300, 1e308),
    *(float("nan"), float("inf"), "", " ", "0", "1e3", "50%", "101%", "-1%", "auto", "none", "..", "/", "a/../b"),
    *(
        "\0",
        "\u2028",
        "\N{GRINNING FACE}",
        "x" * 5000,
        "[MASK]",
        [],
        [[]],
        [None],
        [1, 2, 3],
        {},
        {"": ""},
        {"name": 1},
    ),
)

Draw = random.Random


@dataclass(frozen=True)
class Kind:
    """One kind of input."""

    name: str
    make: Callable[[Path], None]
    """Writes an intact input into an empty folder. Called once."""
    damage: Callable[[Draw, Path], str]
    """Damages a copy of that folder in place, and says how."""
    arguments: Callable[[Path], list[str]]
    """The command line that reads the folder. What it writes lies in the folder too."""


@dataclass(frozen=True)
class Case:
    description: str
    """Kind, number and damage: enough to repeat it."""
    arguments: list[str]


@dataclass(frozen=True)
class Outcome:
    case: Case
    code: int | None
    """None: an exception left the verb, or it was stopped."""
    errors: str
    """What it wrote to stderr, or the traceback."""
    seconds: float


def damaged(kind: Kind, number: int, intact: Path, folder: Path) -> Case:
    """Case `number` of a kind, in `folder`: the same for ever."""
    shutil.copytree(intact, folder)
    how = kind.damage(Draw(f"{kind.name} {number}"), folder)
    return Case(f"{kind.name} {number}: {how}", kind.arguments(folder))


def run_here(case: Case) -> Outcome:
    """The verb in this process."""
    errors, started = io.StringIO(), time.process_time()
    code: int | None = None
    try:
        with patch.dict(os.environ), redirect_stdout(io.StringIO()), redirect_stderr(errors), _limits():
            code = main(case.arguments)
    except (Exception, SystemExit):
        errors.write(traceback.format_exc())
    return Outcome(case, code, errors.getvalue(), time.process_time() - started)


def run_alone(case: Case, errors: Path) -> Outcome:
    """The verb in a process of its own."""
    process = FORKED.Process(target=_alone, args=(case.arguments, errors))
    process.start()
    process.join(60)
    process.kill()
    process.join()
    seconds = float(errors.with_suffix(".seconds").read_text()) if errors.with_suffix(".seconds").exists() else SECONDS
    return Outcome(case, process.exitcode, errors.read_text("utf-8", "replace"), seconds)


def fault(outcome: Outcome) -> str | None:
    """What is wrong with the way in which a verb took its input; None: nothing."""
    lines = [line for line in outcome.errors.splitlines() if line.startswith("espalier: ")]
    problem = None
    if outcome.code is None or outcome.code not in (ExitCode.DONE, ExitCode.MISTAKE):
        problem = f"exit code {outcome.code}"
    elif outcome.code == ExitCode.MISTAKE and len(lines) != 1:
        problem = f"{len(lines)} lines of its own"
    elif outcome.code == ExitCode.MISTAKE and not outcome.errors.rstrip().endswith(lines[0]):
        problem = "a line that is several"
    elif outcome.code == ExitCode.MISTAKE and len(lines[0]) > LONGEST_LINE:
        problem = f"a line of {len(lines[0])} characters"
    elif outcome.code == ExitCode.MISTAKE and outcome.seconds > SECONDS:
        problem = f"{outcome.seconds:.1f} seconds"
    return problem and f"{outcome.case.description}\n  {problem}: {outcome.errors[-1200:]}"


@contextmanager
def _limits() -> Iterator[None]:
    """Inside, memory beyond MEMORY is refused, and processor time beyond twice SECONDS raises TimeoutError."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {2 * SECONDS} seconds of processor time")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _alone(arguments: list[str], errors: Path) -> None:
    with errors.open("w") as file, open(os.devnull, "w") as nowhere:
        os.dup2(file.fileno(), 2)
        os.dup2(nowhere.fileno(), 1)
        started = time.process_time()
        try:
            with _limits():
                code = main(arguments)
        finally:
            errors.with_suffix(".seconds").write_text(str(time.process_time() - started))
        sys.stderr.flush()
        os._exit(code)


# ---- damage -------------------------------------------------------------------------------------------------------


def damage_bytes(draw: Draw, file: Path) -> str:
    """Cuts, flips, repeats, drops or inserts bytes of a file, in place."""
    data = bytearray(file.read_bytes())
    start = draw.randrange(len(data) + 1)
    end = min(len(data), start + draw.choice((1, 4, 64, 1000)))
    how = draw.choice(("cut", "emptied", "flipped", "repeated", "dropped", "zeroed", "inserted"))
    if how == "cut":
        del data[start:]
    elif how == "emptied":
        data.clear()
    elif how == "flipped":
        data[start:end] = bytes(byte ^ (1 << draw.randrange(8)) for byte in data[start:end])
    elif how == "repeated":
        data[start:start] = data[start:end] * draw.choice((1, 20))
    elif how == "dropped":
        del data[start:end]
    elif how == "zeroed":
        data[start:end] = bytes(end - start)
    else:
        data[start:start] = draw.choice((b"\xff\xfe", b"\x00", b"[" * 3000, b"\r", b"\xe2\x80\xa8", b'"', b"9" * 400))
    file.write_bytes(data)
    return f"{file.name} {how} at {start}"


def damage_tree(draw: Draw, tree: Any) -> tuple[Any, str]:
    """A JSON value with one part of it replaced, removed, doubled, renamed, nested or swapped, in place."""
    holders = list(_holders(tree))
    if not holders:
        return draw.choice(ODD_VALUES), "replaced"
    path, holder = draw.choice(holders)
    key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    where, value = ".".join(map(str, (*path, key))), holder[key]
    how = draw.choice(("replaced", "replaced", "replaced", "removed", "doubled", "renamed", "nested", "swapped"))
    if how == "replaced":
        holder[key] = draw.choice(ODD_VALUES)
        return tree, f"{where} = {str(holder[key])[:40]!r}"
    if how == "removed":
        del holder[key]
    elif how == "doubled":
        holder[key] = [value, value]
    elif how == "renamed" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif how == "nested":
        for _ in range(draw.choice((1, 3, 200))):
            holder[key] = draw.choice(([holder[key]], {str(key): holder[key]}))
    else:
        other = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key], holder[other] = holder[other], value
    return tree, f"{where} {how}"


def _holders(tree: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Every mapping and list that holds something, with the way to it; not far into what has been nested."""
    if isinstance(tree, dict | list) and tree and len(path) < DEEPEST:
        yield path, tree
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _holders(value, (*path, key))


def damage_json(draw: Draw, file: Path, times: int = 1) -> str:
    """Damages the values of a JSON file, which stays JSON."""
    tree, hows = json.loads(file.read_text("utf-8")), []
    for _ in range(times):
        tree, how = damage_tree(draw, tree)
        hows.append(how)
    file.write_text(json.dumps(tree), "utf-8")
    return f"{file.name} {', '.join(hows)}"


def damage_tensors(draw: Draw, file: Path) -> str:
    """Damages the header of a safetensors file, with the length before it right or wrong."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, how = damage_tree(draw, json.loads(data[8 : 8 + size]))
    text = json.dumps(header).encode()
    wrong = draw.random() < 0.1
    length = draw.choice((0, size, 2**62, 2**64 - 1)) if wrong else len(text)
    file.write_bytes(length.to_bytes(8, "little") + text + data[8 + size :])
    return f"{file.name} {how}{f', header of {length}' if wrong else ''}"
