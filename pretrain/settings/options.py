"""Types of options on a command line whose default the text of their help describes.

tyro would write `{None}|PATH`, and `(default: None)` or `(default: '')`.
"""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

OptionalText = Annotated[str, arg(help_behavior_hint="")]
OptionalPath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
OptionalStr = Annotated[str | None, arg(metavar="STR", help_behavior_hint="")]
OptionalInt = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
OptionalFloat = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
