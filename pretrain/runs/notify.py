"""`faults.notify`: a command of the user's that hears what happens to a run. It never stops the run."""

import json
import os
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from pretrain.launch.slurm import say
from pretrain.runs.journal import Entry

LIMIT_SECONDS = 10.0
"""How long the command may take. A job that ends waits for it."""

VERBS = {
    "restart": "was started again",
    "rollback": "went back to a checkpoint",
    "preempted": "was asked to stop",
    "failure": "has failed",
    "finished": "is finished",
}
"""The events that are told, in words."""


def notify(command: str | None, folder: Path, entry: Entry) -> None:
    """Runs the command and waits for it. Its output is dropped; should it fail, one line says so.

    It gets ESPALIER_RUN (the folder), ESPALIER_EVENT, ESPALIER_STEP, ESPALIER_REASON, ESPALIER_NODE, ESPALIER_MESSAGE
    (a sentence) and ESPALIER_JSON (all of these; `text` is the sentence, as chat services want it).
    """
    if not command or entry["event"] not in VERBS:
        return
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                env={**os.environ, **variables(folder, entry)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that all of it can be ended
            )
        except OSError as fault:
            say(f"faults.notify could not be run: {fault.strerror}")
            return
        try:
            code = process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            say(f"faults.notify took more than {LIMIT_SECONDS:g} s and was ended")
            return
        finally:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if code:
            output.seek(0)
            words = output.read().decode("utf-8", "replace").split("\n")
            last = next((line.strip() for line in reversed(words) if line.strip()), "")
            say(f"faults.notify ended with exit code {code}" + (f": {last[:200]}" if last else ""))


def notify_meanwhile(command: str | None, folder: Path, entry: Entry) -> threading.Thread:
    """The same, while training goes on."""
    thread = threading.Thread(target=notify, args=(command, folder, entry), name="notify", daemon=True)
    thread.start()
    return thread


def variables(folder: Path, entry: Entry) -> dict[str, str]:
    step, cause = entry.get("step"), entry.get("cause", "")
    node = entry.get("node") or os.environ.get("SLURMD_NODENAME") or os.uname().nodename
    where = "" if step is None else f" at step {step:,}"
    message = f"{folder} {VERBS[entry['event']]}{where}" + (f": {cause}" if cause else "")
    told = {"run": str(folder), "event": entry["event"], "step": step, "reason": cause, "node": node}
    plain = {**told, "step": "" if step is None else step, "message": message}
    return {
        **{f"ESPALIER_{name.upper()}": str(value) for name, value in plain.items()},
        "ESPALIER_JSON": json.dumps({**told, "text": message}),
    }
