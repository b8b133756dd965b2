"""The verb `report`."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pretrain.settings.options import OptionalPath


def report(run: Annotated[Positional[Path], arg(name="run", metavar="RUN")], /, output: OptionalPath = None) -> None:
    """Write one HTML page about a run.

    The run need not be finished. The page shows curves, stages and shape changes, and needs no network.

    Args:
        run: A run's folder.
        output: The file to write. Defaults to `report.html` in the run's folder.
    """
    from pretrain.runs.outputs import check_file
    from pretrain.runs.report import write_report

    check_file("--output", output, "report.html")
    print(write_report(run, output))
