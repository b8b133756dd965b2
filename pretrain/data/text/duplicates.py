"""Which documents were seen before, by 64-bit hashes of their text, in bounded memory.

Hashes lie on disk in sorted runs that are memory-mapped: a look-up is a binary search in each run. Among n documents
the chance that any two different ones share a hash is n^2 / 2^65: 3e-4 at a hundred million.
"""

from pathlib import Path

import numpy as np

_RUN_LENGTH = 1 << 19


class SeenDocuments:
    """Hashes in the order they came in `path`, plus sorted runs of half a million for the look-up."""

    def __init__(self, path: Path, num_known: int = 0) -> None:
        """Starts with the first `num_known` hashes of the file; later ones, from before a crash, are cut off."""
        self._path = path
        path.touch()
        with open(path, "r+b") as file:
            file.truncate(num_known * 8)
        self._num_hashes = 0
        self._runs: list[np.ndarray] = []
        self._recent: set[int] = set()
        with open(path, "rb") as file:
            while len(hashes := np.fromfile(file, np.uint64, _RUN_LENGTH)):
                self._remember(hashes)

    def __len__(self) -> int:
        return self._num_hashes

    def are_new(self, hashes: np.ndarray) -> np.ndarray:
        """[D] bool: seen neither before nor earlier in `hashes`; from now on all are seen."""
        new = np.zeros(len(hashes), bool)
        new[np.unique(hashes, return_index=True)[1]] = True
        new &= ~self.are_known(hashes)
        with open(self._path, "ab") as file:
            hashes[new].tofile(file)
        self._remember(hashes[new])
        return new

    def are_known(self, hashes: np.ndarray) -> np.ndarray:
        """[D] bool: seen before."""
        known = np.array([value in self._recent for value in hashes.tolist()], bool)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            known |= run[at] == hashes
        return known

    def _remember(self, hashes: np.ndarray) -> None:
        self._recent.update(hashes.tolist())
        self._num_hashes += len(hashes)
        if len(self._recent) >= _RUN_LENGTH:
            path = self._path.with_suffix(f".run{len(self._runs)}")
            np.sort(np.fromiter(self._recent, np.uint64, len(self._recent))).tofile(path)
            self._runs.append(np.memmap(path, np.uint64, "r"))
            self._recent.clear()

    def remove(self) -> None:
        """Deletes all files."""
        for path in self._path.parent.glob(self._path.stem + ".*"):
            path.unlink()
