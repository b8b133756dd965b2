"""Tables on a console of any width."""

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text


class WholeTable(Table):
    """A table that shortens no word and no number: where the console is too narrow, a row becomes a block of lines."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments = [item for item in super().__rich_console__(console, options) if isinstance(item, Segment)]
        if not any("…" in segment.text for segment in segments):  # rich's mark where it has cut
            yield from segments
            return
        if self.title:
            yield Text(str(self.title), style="bold")
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            block = Table.grid(padding=(0, 2))
            for column, cell in zip(self.columns, cells, strict=True):
                if cell != "":
                    block.add_row(f"  {column.header}".replace("\n", " "), cell)
            yield Text()
            yield block
        yield Text()
