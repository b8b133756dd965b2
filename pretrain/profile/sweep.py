"""A sweep: every combination of some settings, smallest first, until memory is full."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from model.errors import UserError
from pretrain.profile.measurement import Measurement
from pretrain.profile.memory_limit import OutOfMemory
from pretrain.profile.tables import say_left_out, say_measured
from pretrain.profile.verb import Profile

DEFAULTS = {"micro_batch": (4, 64), "zero": (0, 3), "tp": (1, 8)}
"""What a sweep may change, and from where to where; numbers double, ZeRO stages count up."""

EXAMPLE = "--sweep micro_batch=8:512,zero"


def read_axes(text: str) -> dict[str, list[int]]:
    """`micro_batch=8:32,zero` -> {"micro_batch": [8, 16, 32], "zero": [0, 1, 2, 3]}."""
    axes = {}
    for part in text.split(","):
        name, given, span = part.partition("=")
        if name not in DEFAULTS:
            raise UserError(
                f"--sweep {name!r} is unknown; choose from {', '.join(DEFAULTS)}, separated by commas: {EXAMPLE}"
            )
        first, last = DEFAULTS[name]
        if given:
            numbers = re.fullmatch(r"(\d+)(?::(\d+))?", span, re.ASCII)
            if not numbers:
                raise UserError(f"--sweep {part!r}: write FIRST:LAST, as in {EXAMPLE}")
            first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if first > last or (name != "zero" and first == 0):
            raise UserError(f"--sweep {part!r}: give at least 1, and not less after the colon than before")
        axes[name] = list(range(first, last + 1)) if name == "zero" else list(_doubling(first, last))
    return axes


def _doubling(first: int, last: int) -> Iterator[int]:
    while first <= last:
        yield first
        first *= 2


@dataclass(frozen=True)
class Sweep:
    """Every combination of `axes` of one stage."""

    profile: Profile
    axes: Mapping[str, list[int]]

    def run(self) -> dict[str, Measurement]:
        """What the recipe, the number of ranks and memory allow, fastest first. Says each result as it comes."""
        self.profile.vocab_size()  # no combination works without a corpus: an error, not a reason to skip
        found: dict[str, Measurement] = {}
        too_large: dict[frozenset[tuple[str, int]], int] = {}
        for values in product(*self.axes.values()):
            setting = dict(zip(self.axes, values, strict=True))
            label = " ".join(f"{axis} {value}" for axis, value in setting.items())
            others = frozenset(item for item in setting.items() if item[0] != "micro_batch")
            if setting.get("micro_batch", 0) > too_large.get(others, 2**63):
                continue
            try:
                found[label] = self.profile.run(label.replace(" ", "-"), self.overrides(setting))
                say_measured(label, found[label])
            except OutOfMemory as error:
                if "micro_batch" in setting:
                    too_large[others] = setting["micro_batch"]
                say_left_out(label, error)
            except UserError as error:
                say_left_out(label, error)
        if not found:
            raise UserError(f"--sweep {','.join(self.axes)}: no combination ran; the lines above say why")
        return dict(sorted(found.items(), key=lambda item: -item[1].tokens_per_second))

    def overrides(self, setting: Mapping[str, int]) -> list[str]:
        """Of the recipe. The global batch becomes one that the micro-batches divide: tokens/s hardly depend on it."""
        stage = f"stages.{self.profile.stage}"
        changes = []
        if "tp" in setting:
            changes.append(f"{stage}.layout.tensor_parallel={setting['tp']}")
        if "zero" in setting:
            changes.append(f"{stage}.deepspeed={self._engine_file(setting['zero'])}")
        if "micro_batch" in setting:
            resolved = self.profile.resolved(self.profile.overrides).stages[self.profile.stage]
            copies = max(1, self.profile.ranks() // setting.get("tp", resolved.tensor_parallel))
            together = setting["micro_batch"] * copies
            rows = -(-resolved.global_batch // together) * together
            changes += [f"{stage}.batch.micro={setting['micro_batch']}", f"{stage}.batch.global={rows}"]
        return changes

    def _engine_file(self, zero: int) -> str:
        """The recipe's own DeepSpeed file, at another ZeRO stage."""
        resolved = self.profile.resolved(self.profile.overrides).stages[self.profile.stage]
        config = resolved.deepspeed | {"zero_optimization": resolved.deepspeed["zero_optimization"] | {"stage": zero}}
        file = self.profile.out / f"zero-{zero}.deepspeed.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(config, indent=1) + "\n", "utf-8")
        return str(file)
