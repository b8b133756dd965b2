"""How often a run has to be submitted under a job's time limit, and whether it is saved in time. No torch."""

import math
import re
from collections.abc import Iterator

from model.errors import UserError
from pretrain.cost.time.run import RunTime
from pretrain.cost.time.tables import hours
from pretrain.runs.lead_time import advised_seconds, given_seconds

USUAL_LEAD = 180
"""Seconds between the signal and the end of a job, in the script of docs/multi-node.md."""


def read_limit(text: str) -> int:
    """`24:00:00`, `2-12:00:00` or `90:00`, as SLURM writes a time limit -> seconds."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text, re.ASCII)
    if not found or not any(int(part or 0) for part in found.groups()):
        raise UserError(f"--time {text!r} is not a time limit; write it as SLURM does, for example 24:00:00")
    days, hour, minute, second = (int(part or 0) for part in found.groups())
    return ((days * 24 + hour) * 60 + minute) * 60 + second


def submission_lines(time: RunTime, limit: int | None) -> Iterator[str]:
    """`limit`: of a job, in seconds; None: the number of submissions is nobody's concern."""
    needed = advised_seconds(time.longest_step, time.save_seconds)
    if limit is not None:
        start = time.machine.host.start_seconds
        usable = limit - start - needed
        if usable <= 0:
            raise UserError(
                f"--time: {limit} s are less than a start and a save take on {time.machine.name}, "
                f"{start + needed:.0f} s: give more"
            )
        number = math.ceil(time.seconds / usable)
        yield (
            f"jobs of {hours(limit)} hours: {number}, each with {start:.0f} s of start, "
            f"and told {needed} s before its end, to save"
        )
    lead = given_seconds() or USUAL_LEAD
    if time.longest_step + time.save_seconds > lead:
        yield (
            f"warning: a step and a checkpoint take {time.longest_step + time.save_seconds:,.0f} s, and a signal comes "
            f"{lead} s before the end of a job: give --signal=B:USR1@{needed}"
        )
