"""Checks before training: by one plain process, so that a mistake is one line, and by all ranks together.

The plain process imports torch only for what cannot be known without: it takes seconds, at every start.
"""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from model.config import BertConfig
from model.errors import UserError
from model.lazy import dist
from pretrain.checkpoint.tensors import replace_text
from pretrain.data import Corpus
from pretrain.data.corpus import CorpusFiles
from pretrain.data.text.writing import file_sha256
from pretrain.engine.agreement import is_group, raise_together, read_once
from pretrain.engine.place import is_first_of_node, node_name
from pretrain.interop.teacher import check_folder_teachers, with_folder_teachers
from pretrain.recipe import Recipe, Run, resolve
from pretrain.recipe.checks.pilots import check_pilots
from pretrain.recipe.checks.saved_states import check_saved_states
from pretrain.recipe.checks.stage_rules import check_lengths
from pretrain.recipe.ranks import usable_ranks
from pretrain.runs.folder import RunFolder
from pretrain.runs.history import History
from pretrain.training.hooks_of_plugins import check_options


def check_run(
    recipe: Recipe, num_ranks: int, folder: Path, trust_pickle: bool = False, joins: bool = False
) -> tuple[Run, Corpus, RunFolder]:
    """The resolved run, its corpus and its folder. Raises UserError; writes nothing. Collective: rank 0 reads for all.

    `trust_pickle`: whether pickled weights to start from may run code. `joins`: whether others may train it already.
    """
    run, files = read_once(lambda: _read_run(recipe, num_ranks, folder, trust_pickle, joins))
    check_device(run)
    for tracker in run.recipe.trackers:
        if find_spec(tracker) is None:
            raise UserError(f"trackers: {tracker} is not installed here; pip install {tracker}, or leave it out")
    check_options(run.recipe.hooks)
    corpus = Corpus.of(files)
    for stage in run.stages:
        check_mask_token(stage.config, corpus.special.mask)
    return run, corpus, RunFolder(folder)


def _read_run(recipe: Recipe, num_ranks: int, folder: Path, trust_pickle: bool, joins: bool) -> tuple[Run, CorpusFiles]:
    """All that is found out from files."""
    files = CorpusFiles.read(recipe.data.corpus)
    run_folder = RunFolder(folder)
    recipe = run_folder.completed(recipe)
    resolved = resolve(recipe, files.vocab_size, usable_ranks(recipe, num_ranks))
    run = with_folder_teachers(resolved, run_folder.has_begun)
    run_folder.check(recipe)
    if not is_group():  # once, before the ranks
        if not joins:
            run_folder.wait_until_free()
            run_folder.check(recipe)  # again: the one that it waited for may have come to its end
        if run_folder.metrics.is_file():
            History.read(folder)  # a damaged line would stop the run at its end, which needs them all
    if not run_folder.has_begun:  # a resumed run may be past the fault, and cannot change its recipe
        check_lengths(run)
        if not is_group():  # once: it reads the files of checkpoints
            check_folder_teachers(run, files.tokenizer_hash)
        check_saved_states(run)
        check_pilots(run, files.vocab_size)
        if recipe.start is not None:
            _check_start(Path(recipe.start), run, trust_pickle)
    return run, files


def _check_start(path: Path, run: Run, trust_pickle: bool) -> None:
    if run.recipe.start_with == "state":
        from pretrain.interop.continuing import check_continued

        check_continued(path, run.stages[0].config)
    else:
        from pretrain.interop.importing import check_start

        check_start(path, run.stages[0].config, trust_pickle)


def check_device(run: Run) -> None:
    """Raises UserError where the device that trains lacks something that the recipe asks for."""
    if run.stages[0].precision == "fp16":
        check_fp16()
    if run.recipe.fp8:
        check_fp8_device()
    if run.recipe.compile is True:
        check_compiler()
    if run.recipe.attention_kernel not in ("auto", "trial"):
        check_attention_kernel(run)


def check_fp16() -> None:
    """Raises UserError where the device that trains is no GPU."""
    from pretrain.engine.distributed import computes_on_gpu

    if not computes_on_gpu():
        raise UserError("precision fp16 needs a GPU; choose bf16 or fp32")


def check_fp8_device() -> None:
    """Raises UserError where the device that trains is a GPU without FP8."""
    from pretrain.engine import fp8

    fp8.check_fp8_device()


def check_compiler() -> None:
    """Raises UserError where torch.compile lacks something on the device that trains."""
    from pretrain.engine.compilation import compiles
    from pretrain.engine.distributed import device

    compiles(True, device())


def check_attention_kernel(run: Run) -> None:
    """Raises UserError where the kernel that the recipe names can do what no stage asks on the device that trains."""
    from pretrain.engine.deterministic import deterministic
    from pretrain.training.attention import obstacle_to, with_softmax

    name = run.recipe.attention_kernel
    with deterministic(run.recipe.deterministic):
        obstacle = obstacle_to(name, with_softmax(run.stages))
    if obstacle:
        raise UserError(f"attention_kernel {name} {obstacle}; name another, or auto")


def check_shards(corpus: Corpus, folder: RunFolder) -> None:
    """Compares every shard with its checksum from `prepare`, with the shards divided among the ranks. Collective.

    Files that this run has checked before, and that have kept their size and date, are skipped. One rank of each node
    looks whether its node sees the same files. Raises Stop on all ranks when a shard has changed.
    """
    sums = {
        directory / (shard["name"] + suffix): shard[f"sha256{suffix}"]
        for directory, manifest in zip(corpus.weights, corpus.manifests, strict=True)
        for split in manifest["splits"].values()
        for shard in split["shards"]
        for suffix in (".bin", ".idx", ".words")
        if f"sha256{suffix}" in shard
    }
    stamps, unchecked = read_once(lambda: _look_at(sums, folder))
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    fault = None
    if rank > 0 and is_first_of_node():
        fault = next(filter(None, (_seen_otherwise(file, stamp) for file, stamp in stamps.items())), None)
    if fault is None:
        changed = (file for file in unchecked[rank::num_ranks] if file_sha256(file) != sums[file])
        fault = next((f"{file} is not what prepare wrote (its checksum differs)" for file in changed), None)
    raise_together(UserError(f"{fault}; prepare the corpus again") if fault else None)
    if rank == 0 and unchecked:
        checked = {str(file.resolve()): stamp for file, stamp in stamps.items()}
        replace_text(folder.checked_shards, json.dumps(checked, indent=1) + "\n")


def _look_at(sums: Mapping[Path, str], folder: RunFolder) -> tuple[dict[Path, str], list[Path]]:
    """For each file of the corpus its size, date and checksum, and the files that this run has not checked before."""
    checked, stamps = _checked_before(folder), {}
    for file, checksum in sums.items():
        try:
            found = file.stat()
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}); prepare the corpus again") from None
        stamps[file] = f"{found.st_size} {found.st_mtime_ns} {checksum}"
    return stamps, [file for file in sums if checked.get(str(file.resolve())) != stamps[file]]


def _seen_otherwise(file: Path, stamp: str) -> str | None:
    """What this node sees in place of a file of the corpus that rank 0 sees; its date may be another."""
    try:
        size = file.stat().st_size
    except OSError as error:
        return f"{file} cannot be read on {node_name()} ({error.strerror})"
    seen = int(stamp.split()[0])
    return None if size == seen else f"{file} has {size:,} bytes on {node_name()}, {seen:,} on the first node"


def _checked_before(folder: RunFolder) -> dict[str, str]:
    """{file: stamp}; empty where the list is missing or damaged, and every file is checked again."""
    try:
        checked = json.loads(folder.checked_shards.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return checked if isinstance(checked, dict) else {}


def check_mask_token(config: BertConfig, mask: int) -> None:
    """Raises UserError if token dropout takes another token for [MASK] than the corpus."""
    if config.token_dropout is not None and config.token_dropout.mask_token != mask:
        raise UserError(
            f"model.token_dropout.mask_token {config.token_dropout.mask_token} is not the corpus's [MASK]; set it to "
            f"{mask}"
        )
