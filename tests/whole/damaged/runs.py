"""Folders of runs: checkpoints, and what a run has written of itself; and the folders that `export` makes of them."""

import hashlib
from pathlib import Path

from pretrain.checkpoint.files import CHECKSUMS, INDEX
from pretrain.use.export import export
from tests.support.damage import Draw, Kind, damage_bytes, damage_json, damage_tensors
from tests.support.run_on_disk import make_corpus, make_run

CHECKPOINT = Path("run/checkpoints/step-00000040")


def make(folder: Path) -> None:
    """A corpus, a run on it, and its export."""
    make_run(folder / "run", make_corpus(folder / "corpus"))
    export(folder / "run", folder / "model")


def damage_checkpoint(draw: Draw, folder: Path) -> str:
    checkpoint = folder / CHECKPOINT
    part = next(checkpoint.glob("*.safetensors"))
    way = draw.random()
    if way < 0.25:
        return damage_bytes(draw, draw.choice((checkpoint / INDEX, checkpoint / CHECKSUMS, part)))
    if way < 0.3:
        return damage_bytes(draw, folder / "run" / "checkpoints" / "latest")
    if way < 0.5:
        how = damage_tensors(draw, part)
    else:
        how = damage_json(draw, checkpoint / INDEX, draw.randint(1, 2))
    mend(checkpoint)
    return how


def mend(checkpoint: Path) -> None:
    """Checksums that fit the files as they are."""
    names = [line.split("  ")[1] for line in (checkpoint / CHECKSUMS).read_text().splitlines()]
    sums = {name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in names}
    (checkpoint / CHECKSUMS).write_text("".join(f"{each}  {name}\n" for name, each in sums.items()))


def damage_model(draw: Draw, folder: Path) -> str:
    file = draw.choice(("config.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"))
    path = folder / "model" / file
    if draw.random() < 0.1:
        path.unlink()
        return f"{file} removed"
    if draw.random() < 0.2:
        return damage_bytes(draw, path)
    return damage_tensors(draw, path) if file == "model.safetensors" else damage_json(draw, path, draw.randint(1, 2))


def damage_history(draw: Draw, folder: Path) -> str:
    file = draw.choice(("metrics.jsonl", "metrics.jsonl", "metrics.jsonl", "recipe.yaml"))
    path = folder / "run" / file
    if file == "recipe.yaml" or draw.random() < 0.3:
        return damage_bytes(draw, path)
    lines = path.read_text("utf-8").splitlines()
    number = draw.randrange(len(lines))
    one = folder / "line"
    one.write_text(lines[number])
    how = damage_json(draw, one, draw.randint(1, 2))
    lines[number] = one.read_text("utf-8")
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return f"metrics.jsonl:{number + 1}{how.removeprefix('line')}"


def fill(folder: Path) -> list[str]:
    return ["fill", str(folder / "run"), "the old [MASK] sings."]


def grow(folder: Path) -> list[str]:
    return ["grow", str(folder / "model"), "--to", "ffn=96", "--out", str(folder / "grown")]


def report(folder: Path) -> list[str]:
    return ["report", str(folder / "run")]


def export_run(folder: Path) -> list[str]:
    return ["export", str(folder / "run"), "--output", str(folder / "exported")]


KINDS = (
    Kind("checkpoints", make, damage_checkpoint, fill),
    Kind("models of transformers", make, damage_model, grow),
    Kind("histories, in a report", make, damage_history, report),
    Kind("histories, in a model card", make, damage_history, export_run),
)
