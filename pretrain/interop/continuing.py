"""Starting a run from the whole state of an Espalier checkpoint (`start_with: state`): not only its weights, but also
its moments, its step counts and its place in the text.

Several runs may start from one checkpoint, each with its own schedule, so one run at a constant rate can have several
decays (WSD).
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from growth.carry import carried_over
from growth.change import ShapeChange, identity
from growth.state import TrainingState
from model.config import BertConfig
from model.errors import UserError
from pretrain.checkpoint.files import load_checkpoint, read_index, readable
from pretrain.checkpoint.progress import Before, Progress
from pretrain.checkpoint.vocabulary import other_vocabulary
from pretrain.data import Corpus, DataPosition
from pretrain.engine.agreement import read_once, say_once
from pretrain.engine.spread import changed_state
from pretrain.interop.importing import misfit_of, own_checkpoint
from pretrain.optim.options import OptimizerOptions
from pretrain.optim.section import Optimizer
from pretrain.recipe.schema import Recipe
from pretrain.settings.hub import local_folder


def continued(
    path: Path, recipe: Recipe, config: BertConfig, optimizer: OptimizerOptions, corpus: Corpus
) -> tuple[TrainingState, Progress]:
    """The state of a checkpoint, or of a run's latest, for a run of `recipe` that begins with the shape `config` and
    this optimizer, and where it begins to read. Collective.

    Moments carry over to another optimizer as between stages (growth/carry.py). Raises UserError where the checkpoint
    holds another model or knows words by other ids, or no run has saved it.
    """
    checkpoint = read_once(lambda: _continuable(path))  # a run that still trains may move its latest at any moment
    state, run = load_checkpoint(checkpoint)
    if misfit := misfit_of(path, config, state.config):
        raise UserError(misfit)
    if fault := other_vocabulary(run, corpus, checkpoint):
        raise fault
    settled = settled_units(state.config, run)
    change = carried_over(
        ShapeChange(state.config, config, settled.rule), optimizer_of(run).averages, optimizer.averages
    )
    with readable(checkpoint):
        saved, theirs = Progress.from_json(run["progress"]), Recipe.model_validate(run["recipe"])
        position, same_corpus = saved.position, Path(run["corpus"]) == corpus.path.resolve()
        led_here = _before(run, saved)
    same_order = (theirs.seed, theirs.data.sampling) == (recipe.seed, recipe.data.sampling)
    if not (same_corpus and same_order):
        other = "another order (seed, data)" if same_corpus else "another corpus"
        say_once(f"start {path}: it was trained on {other}; {corpus.path} is read from its beginning")
        position = DataPosition(draw=position.draw)
    faded = saved.masked_since - saved.step  # negative: before the first step of this run
    return changed_state(state, change), Progress(
        position=position,
        masked_since=faded,
        loss_scaler=saved.loss_scaler,
        token_losses=saved.token_losses,
        before=led_here,
    )


def check_continued(path: Path, config: BertConfig) -> None:
    """Raises UserError if `continued` cannot read the folder, as far as can be told without reading a tensor."""
    checkpoint = _continuable(path)
    with readable(checkpoint):
        there = BertConfig(**read_index(checkpoint)["config"])
    if misfit := misfit_of(path, config, there):
        raise UserError(misfit)


def optimizer_of(run: dict[str, Any]) -> OptimizerOptions:
    """That of the stage that saved a checkpoint."""
    section = run.get("optimizer", run["recipe"]["optimizer"])  # absent where stages could not change it
    return Optimizer.model_validate(section).chosen


def settled_units(config: BertConfig, run: dict[str, Any]) -> ShapeChange:
    """A checkpoint's state with no units but with the step count of their tensors."""
    progress = Progress.from_json(run["progress"]) if "progress" in run else Progress()
    if progress.new_units is None:
        return identity(config)
    return progress.new_units.settled(config, progress.step, optimizer_of(run).decay_rates)


def _before(run: dict[str, Any], saved: Progress) -> Before:
    ranks, earlier = run["written_under"]["ranks"], saved.before
    own = Before(
        recipes=[run["recipe"]],
        steps=saved.step,
        num_tokens=saved.num_tokens,
        flops=saved.flops,
        train_seconds=saved.train_seconds,
        seconds=saved.train_seconds + saved.growth_seconds,
        device_seconds=(saved.device_seconds + saved.growth_seconds) * ranks,
        was_grown="grown" in run,
    )
    if earlier is None:
        return own
    return Before(**{field.name: getattr(earlier, field.name) + getattr(own, field.name) for field in fields(Before)})


def _continuable(path: Path) -> Path:
    checkpoint = own_checkpoint(local_folder(path))
    if checkpoint is None:
        raise UserError(
            f"start {path} holds weights alone, and start_with state asks for moments and a place in the text; leave "
            "start_with out, or name a run of Espalier"
        )
    if not {"recipe", "progress", "corpus"} <= read_index(checkpoint)["run"].keys():
        raise UserError(f"start {path} was not saved by a run, so it has no state to continue; leave start_with out")
    return checkpoint
