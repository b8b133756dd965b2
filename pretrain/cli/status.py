"""The verb `status`."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def status(
    runs: Annotated[Positional[tuple[Path, ...]], arg(name="run", metavar="RUN")] = (Path("runs"),),
    /,
    json: bool = False,
) -> None:
    """Print how runs stand: state, step, loss, speed, restarts, time left.

    Reads the folders only, so it works while a run trains, on any machine that sees them.

    Args:
        runs: Folders of runs, or a folder that holds runs. Several runs are printed as a table.
        json: Print JSON.
    """
    from dataclasses import asdict
    from json import dumps

    from pretrain.runs.status import find_runs, read_status
    from pretrain.runs.status_text import one_run, table

    statuses = [read_status(run) for run in find_runs(runs)]
    is_one = len(runs) == 1 and [status.run for status in statuses] == [str(runs[0])]
    if json:
        values = [asdict(status) for status in statuses]
        print(dumps(values[0] if is_one else values, indent=1))
    else:
        print(one_run(statuses[0]) if is_one else table(statuses))
