"""A disk becomes read-only while a run has files open on it, as ext4 makes it after an error of the hardware."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.recipe import Recipe
from pretrain.training.events import Hook, TrainerView
from pretrain.training.train import train
from tests.support.tiny import losses, same_bits, tiny_recipe
from tests.support.workers import pool

STEPS = [{"name": "a", "steps": 6}]


class Disk:
    """An ext4 file system in a file."""

    def __init__(self, image: Path, folder: Path):
        self.image, self.folder = image, folder

    def make(self) -> bool:
        """Whether this process may."""
        self.folder.mkdir()
        with self.image.open("wb") as file:
            file.truncate(64 << 20)
        words = ["mkfs.ext4", "-q", "-e", "remount-ro", str(self.image)]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0 and self.mount()

    def mount(self) -> bool:
        words = ["mount", "-o", "loop", str(self.image), str(self.folder)]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def unmount(self) -> None:
        """Refused while a file on it is open."""
        subprocess.run(["umount", str(self.folder)], check=True)

    def fail(self) -> None:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        device = next(Path(source).name for source, folder, *_ in mounts if folder == str(self.folder))
        Path("/sys/fs/ext4", device, "trigger_fs_error").write_text("tried\n")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    one = Disk(tmp_path / "image", tmp_path / "disk")
    try:
        if not one.make():
            pytest.skip("mounting a file system of one's own needs root and a loop device")
        yield one
    finally:
        subprocess.run(["umount", "--lazy", str(one.folder)], capture_output=True, check=False)


class Fails(Hook):
    """The disk, after the third step."""

    def __init__(self, disk: Disk):
        self.disk = disk

    def on_boundary(self, trainer: TrainerView) -> None:
        if trainer.progress.step == 3:
            self.disk.fail()


def message_on_a_disk_that_fails(recipe: Recipe, folder: Path, disk: Disk) -> str:
    with pytest.raises(UserError) as stopped:
        train(recipe, folder, [Fails(disk)])
    return str(stopped.value)


def test_a_disk_that_becomes_read_only_is_one_line_and_the_run_resumes_once_it_is_mended(corpus, tmp_path, disk):
    recipe = tiny_recipe(corpus, stages=STEPS, checkpoint={"every": 2}, validation={"rows": 8})
    run, undisturbed = disk.folder / "run", tmp_path / "undisturbed"
    (message,) = pool(1).run(message_on_a_disk_that_fails, recipe, run, disk)
    said = "metrics.jsonl cannot be written: Read-only file system; mend that, and start the run again"
    assert message == f"{run}/{said}"
    pool(1).stop()  # the rank ends, as it does outside of tests, and with it what it has open
    disk.unmount()
    subprocess.run(["e2fsck", "-p", str(disk.image)], check=False, capture_output=True)
    assert disk.mount()
    pool(1).run(train, recipe, run)
    pool(1).run(train, recipe, undisturbed)
    assert losses(run) == losses(undisturbed) and same_bits(run, undisturbed)
