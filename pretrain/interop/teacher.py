"""Teachers that a stage is aligned with (`align`): their shapes before the run starts, and their weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from model.config import BertConfig
from model.errors import UserError, nearest
from model.lazy import Tensor
from pretrain.checkpoint.files import INDEX, find_damage, load_checkpoint, read_index, readable
from pretrain.checkpoint.store import find_checkpoint
from pretrain.engine.agreement import read_once, say_once
from pretrain.recipe.checks.alignment import check_teacher
from pretrain.recipe.run import ResolvedStage, Run
from pretrain.recipe.teachers import in_evaluation
from pretrain.settings.hub import local_folder


def with_folder_teachers(run: Run, has_begun: bool = False) -> Run:
    """The run with the shapes of teachers that no stage of it keeps, read from their folders; those that are not there
    stay unknown. Raises UserError for a folder without a model, or with one that cannot teach this one. A run that has
    begun may be past its teacher: there it stays unknown, too, until somebody opens it."""

    def found(stage: ResolvedStage) -> ResolvedStage:
        try:
            return _with_folder_teacher(run, stage)
        except UserError:
            if has_begun:
                return stage
            raise

    return replace(run, stages=tuple(map(found, run.stages)))


def check_folder_teachers(run: Run, tokenizer: str | None) -> None:
    """Raises UserError for a teacher that is missing, damaged, or was trained with another tokenizer than that of the
    corpus, given by its hash. A folder of transformers does not say which tokens it was trained on: of it only the
    number of entries has been compared. Reads the files of checkpoints."""
    for name, stage in _from_folders(run).items():
        named = f"stage {stage.name}: align.teacher {name}"
        folder = local_folder(Path(name))
        if not folder.is_dir():
            kept = [each.keep for each in run.stages if each.keep]
            raise UserError(
                f"{named}: no stage keeps it{nearest(name, kept)}, and no folder has that path; name a stage's `keep`, "
                "or a folder with a model"
            )
        checkpoint = _checkpoint(folder)
        if checkpoint is None:
            continue
        if checkpoint.parent.parent == folder and not (folder / "summary.json").is_file():
            raise UserError(
                f"{named} is a run that has not finished, whose newest checkpoint is not always the same; name one of "
                f"its checkpoints, such as {checkpoint}"
            )
        if damage := find_damage(checkpoint):
            raise UserError(f"{named} is damaged: {damage}; choose another checkpoint")
        theirs = read_index(checkpoint)["run"].get("tokenizer", tokenizer)
        if tokenizer is not None and theirs != tokenizer:
            raise UserError(
                f"{named} was trained with another vocabulary than that of the corpus; choose a teacher that was "
                "trained on this corpus, or with its tokenizer"
            )


def read_teacher(path: Path) -> tuple[BertConfig, Callable[[str], Tensor]]:
    """The shape and the logical weights of a teacher. Collective, and so is every call for a weight."""
    folder = local_folder(path)
    checkpoint = read_once(lambda: _checkpoint(folder))
    if checkpoint is None:
        from pretrain.interop.huggingface_import import import_model

        config, weights = import_model(folder, note=say_once, sentence_head=False)
        return in_evaluation(config), weights.__getitem__
    from pretrain.engine.spread import fetch_from

    state, _ = load_checkpoint(checkpoint)
    fetch = fetch_from(state)
    return in_evaluation(state.config), lambda name: fetch(name).weight


def _from_folders(run: Run) -> dict[str, ResolvedStage]:
    """The teachers that no stage keeps, each with the first stage that it teaches."""
    found: dict[str, ResolvedStage] = {}
    for stage in run.stages:
        if stage.align and stage.align.teacher not in run.saved_states:
            found.setdefault(stage.align.teacher, stage)
    return found


def _with_folder_teacher(run: Run, stage: ResolvedStage) -> ResolvedStage:
    if stage.align is None or stage.align.teacher in run.saved_states:
        return stage
    try:
        config = _shape(local_folder(Path(stage.align.teacher)))
        if config is not None:
            check_teacher(stage, config, run.recipe.data)
    except UserError as error:
        raise UserError(f"stage {stage.name}: {error}") from None
    return replace(stage, align=replace(stage.align, config=config))


def _shape(folder: Path) -> BertConfig | None:
    """None: there is no folder."""
    if not folder.is_dir():
        return None
    checkpoint = _checkpoint(folder)
    if checkpoint is not None:
        with readable(checkpoint):
            return in_evaluation(BertConfig(**read_index(checkpoint)["config"]))
    from pretrain.interop.huggingface_import import possible_shapes

    return in_evaluation(possible_shapes(folder, sentence_head=False)[0])


def _checkpoint(folder: Path) -> Path | None:
    """Espalier's, the latest of a run; None: a model of transformers. Raises UserError for a folder with neither."""
    checkpoint = find_checkpoint(folder)
    if (checkpoint / INDEX).is_file():
        return checkpoint
    if (folder / "config.json").is_file():
        return None
    raise UserError(
        f"align.teacher {folder} has neither {INDEX} (Espalier) nor config.json (Hugging Face); name a folder with a "
        "model"
    )
