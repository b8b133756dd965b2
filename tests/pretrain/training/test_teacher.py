"""Early-layer alignment in whole runs: its weight and its end, costs, layouts, resuming, folders, what is refused."""

import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, patch

import pytest
import torch
from safetensors.torch import load_file, save_file

from growth.state import fresh_state
from model.alignment import Alignment
from model.config import BertConfig
from model.errors import UserError
from model.initialize import initial_weight
from pretrain.checkpoint.progress import Decision
from pretrain.cost.flops import training_flops
from pretrain.cost.memory import teacher_bytes
from pretrain.cost.plan import print_plan
from pretrain.cost.savings import stage_flops, teacher_flops
from pretrain.cost.time.machine import load_machine
from pretrain.cost.time.messages import ALL_GATHER, of_teacher
from pretrain.cost.time.step import step_time
from pretrain.data import Corpus
from pretrain.engine import frozen
from pretrain.interop.huggingface import export_model
from pretrain.interop.teacher import read_teacher
from pretrain.recipe import Recipe, ResolvedStage, Run, resolve
from pretrain.recipe.decisions import decided
from pretrain.simulation.messages import recorded
from pretrain.stage_rules.base import Verdict
from pretrain.training.events import Hook, StepResult, TrainerView
from pretrain.training.hooks import stage_ends
from pretrain.training.hooks.stage_ends import StageEnds
from pretrain.training.place import layout_of
from pretrain.training.preflight import check_run
from pretrain.training.train import train
from pretrain.use.export import export
from tests.support.corpora import made_up_documents, prepared
from tests.support.running import random_batch
from tests.support.tiny import losses, metrics, same_bits, tiny_recipe, train_until
from tests.support.workers import pool

MODEL = dict(layers=4, hidden=32, heads=4, ffn=64, max_positions=32, hidden_dropout=0, attention_dropout=0)
SMALL = {"layers": 2, "hidden": 16, "ffn": 32}
ALIGN = {"teacher": "small", "layer": "50%", "weight": 0.4, "steps": 6}
FULL = {"grow": ["stack", "widen"], "shape": {"layers": 4, "hidden": 32, "ffn": 64}}
STAGES = [
    {"name": "small", "steps": 3, "shape": SMALL, "keep": "small"},
    {"name": "full", "steps": 4, **FULL, "align": ALIGN},
    {"name": "deep", "steps": 4, "grow": "stack", "shape": {"layers": 8}},
]
ALIGNED = range(4, 10)
"""The steps with a teacher: all of `full`, and two of `deep`."""
MICRO_BATCHES = 2
"""Of a step, on each of two ranks."""


def recipe(corpus: Path, **changes) -> Recipe:
    data = {"corpus": str(corpus), "pack": True}
    few = {"stages": STAGES, "data": data, "validation": {"rows": 8}}
    return tiny_recipe(corpus, **{"model": MODEL, **few, **changes})


def resolved(asked_for: Recipe, num_ranks: int) -> Run:
    return resolve(asked_for, Corpus.open(asked_for.data.corpus).vocab_size, num_ranks)


class Teachers(Hook):
    """Whether the model has a teacher, step by step."""

    def __init__(self) -> None:
        self.seen: dict[int, bool] = {}

    def on_step(self, trainer: TrainerView, result: StepResult) -> None:
        self.seen[result.step] = trainer.engine.module.alignment is not None


def train_and_watch(asked_for: Recipe, folder: Path) -> tuple[dict[int, bool], int, int, bool]:
    """Trains. Gives which steps had a teacher; how often it was asked; the bytes of the last one on this rank; and
    whether it was to its end what the run has kept."""
    asked, parts, teachers = [], [], Teachers()
    target, divide = Alignment.target, frozen.Divided.__init__

    def asking(self: Alignment, batch) -> torch.Tensor:
        asked.append((self.encode.__self__, batch))
        return target(self, batch)

    def dividing(self, *arguments) -> None:
        divide(self, *arguments)
        parts.append(self.part)

    with patch.object(Alignment, "target", asking), patch.object(frozen.Divided, "__init__", dividing):
        train(asked_for, folder, [teachers])
    model, batch = asked[-1]
    own = parts[-1 - model.config.num_blocks :]
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *own))
    kept = read_teacher(folder / "checkpoints" / "small")
    same = frozen.frozen_model(*kept, model.tp, torch.float32, divided=bool(parts)).encode(batch)
    return teachers.seen, len(asked), held, torch.equal(model.encode(batch), same)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> tuple[Path, list]:
    """A run on two ranks that is not stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, pool(2).run(train_and_watch, recipe(corpus), folder)


def steps_of(folder: Path) -> list[dict]:
    return [line for line in metrics(folder) if "event" not in line]


def test_the_teacher_is_there_until_its_weight_is_0_and_costs_its_forward_pass(corpus, whole):
    folder, ranks = whole
    steps, run = steps_of(folder), resolved(recipe(corpus), 2)
    assert [step["step"] for step in steps if "alignment" in step] == list(ALIGNED)
    assert all(0.3 < step["alignment"] <= 1 for step in steps if "alignment" in step)
    for seen, num_asked, held, is_what_was_kept in ranks:
        assert seen == {step["step"]: step["step"] in ALIGNED for step in steps}
        assert num_asked == len(ALIGNED) * MICRO_BATCHES
        assert is_what_was_kept
        assert held == teacher_bytes(run.stages[1])
    weights = [run.stages[1 + (tick >= 7)].align_weight_at(tick) for tick in range(3, 9)]
    assert weights == pytest.approx([0.4 * left / 6 for left in range(6, 0, -1)])
    assert run.stages[2].align_weight_at(9) == 0
    for before, step in pairwise(steps):
        stage = next(each for each in run.stages if each.name == step["stage"])
        few, many = (training_flops(stage.config, 8, 32, num_masked) for num_masked in (0, 8 * 32))
        taken = step["flops"] - before["flops"] - stage.optimizer.chosen.step_flops(stage.config)
        taken -= (step["step"] in ALIGNED) * teacher_flops(stage)
        assert few < taken < many and (taken - few) % ((many - few) // (8 * 32)) == 0
    assert [stage.aligned_share for stage in run.stages] == [0, 1, 0.5]
    plain = resolved(recipe(corpus, stages=[STAGES[0] | {"keep": None}, {"name": "full", "steps": 8, **FULL}]), 2)
    assert stage_flops(run.stages[1]) == stage_flops(plain.stages[1]) + teacher_flops(run.stages[1])


def test_a_run_that_was_stopped_has_the_same_bits(corpus, tmp_path, whole):
    """Within a stage, and at the growth under which the alignment goes on."""
    for step in (5, 7):
        pool(2).run(train_until, recipe(corpus), tmp_path / "parts", step)
    pool(2).run(train, recipe(corpus), tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(whole[0])
    assert same_bits(tmp_path / "parts", whole[0])


LAYOUTS = {
    "1 rank, ZeRO 0, recomputed": (1, {"deepspeed": "ds_configs/zero0.json", "recompute": True}),
    "ZeRO 3": (2, {"deepspeed": "ds_configs/zero3.json"}),
    "sequence parallel": (2, {"layout": {"tensor_parallel": 2, "sequence_parallel": True}}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains_the_same(corpus, tmp_path, whole, layout):
    num_ranks, changes = LAYOUTS[layout]
    asked_for = recipe(corpus, **changes)
    ranks = pool(num_ranks).run(train_and_watch, asked_for, tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(losses(whole[0]), rel=1e-5)
    ours, theirs = (
        [step.get("alignment", 0.0) for step in steps_of(folder)] for folder in (tmp_path / "run", whole[0])
    )
    assert ours == pytest.approx(theirs, rel=1e-5)
    expected = teacher_bytes(resolved(asked_for, num_ranks).stages[1])
    for _, _, held, is_what_was_kept in ranks:
        assert is_what_was_kept
        assert held == pytest.approx(expected, abs=200)  # parts are rounded up to whole elements


def test_a_folder_teaches_the_same_in_either_format(corpus, tmp_path, whole):
    """A run's checkpoint, and its export to transformers."""
    kept = whole[0] / "checkpoints" / "small"
    theirs = export(kept, tmp_path / "transformers")
    found = []
    for teacher in (kept, theirs):
        folder = tmp_path / "runs" / teacher.name
        stages = [{"name": "full", "steps": 2, "align": {"teacher": str(teacher), "layer": 1}}]
        asked_for = recipe(corpus, stages=stages, schedule={"warmup": 0})
        run, _, _ = check_run(asked_for, 1, folder)
        assert run.stages[0].align.config.layers == 2
        pool(1).run(train, asked_for, folder)
        found.append([(step["loss"], step.get("alignment"), step["flops"]) for step in steps_of(folder)])
    assert found[0][1][1] is None, "half of two steps"
    assert found[0] == found[1]


def test_an_early_end_brings_the_alignment_forward(corpus):
    stages = [STAGES[0] | {"steps": 8, "until": {"tokens": 500}}, *STAGES[1:]]
    planned = resolved(recipe(corpus, stages=stages), 1)
    run = decided(planned, [Decision(0, end=5)])
    assert [(stage.align.start, stage.align.end) for stage in planned.stages[1:]] == [(8, 14)] * 2
    assert [(stage.align.start, stage.align.end) for stage in run.stages[1:]] == [(5, 11)] * 2
    assert run.stages[1].align.config == run.stages[0].config


@pytest.mark.parametrize(("steps", "left"), [(3, 0.2), (6, 0)])
def test_an_alignment_that_a_rule_ends_with_its_stage_is_told(corpus, capsys, steps, left):
    """After three of its steps it has half of its weight; one that is to last longer than the stage goes on."""
    taught = STAGES[1] | {"align": ALIGN | {"steps": steps}, "until": {"tokens": 500}}
    run = resolved(recipe(corpus, stages=[STAGES[0], taught, STAGES[2]]), 1)
    stage = run.stages[1]
    now = stage.start + 1.5
    trainer = SimpleNamespace(
        run=run, stage=stage, now=now, progress=SimpleNamespace(step=5), call=Mock(), decide=Mock()
    )
    watch = SimpleNamespace(name="tokens", event="check", checks=1)
    watch.check = lambda trainer: Verdict.of(True)
    watch.decide = lambda trainer, agreed: Decision(1, end=now)
    with patch.object(stage_ends, "from_rank_0", lambda value: value):
        StageEnds()._check(trainer, watch)
    ((_, event),) = [call.args for call in trainer.call.mock_calls]
    assert event["message"].endswith(f"; its alignment ends with it, at weight {left:g}") == bool(left)
    assert "ends stage full, which could have lasted to 7 steps" in event["message"]
    after = decided(run, [Decision(1, end=now)])
    assert bool(after.stages[2].align_weight_at(now)) == (not left)
    print_plan(run)
    assert ("it ends with the stage if that ends before" in " ".join(capsys.readouterr().out.split())) == bool(left)


def aligned(**changes) -> list[dict]:
    return [STAGES[0], STAGES[1] | {"align": {**ALIGN, **changes}}]


def full_with(**shape) -> list[dict]:
    return [STAGES[0], STAGES[1] | {"shape": {**FULL["shape"], **shape}}]


REFUSED = {
    "untaught": (aligned(teacher="initial"), "align.teacher initial is the model before its first step"),
    "too high": (aligned(layer=5), "stage full: align.layer 5: the model has 4 layers"),
    "no step": (aligned(steps="0.1%"), "align.steps 0.1% of this run is no step at all"),
    "frozen": (full_with(frozen_layers=2), "align.layer 2 is one of the 2 frozen layers"),
    "dropping": (full_with(token_dropping={}), "align and token_dropping do not go together"),
    "later": (
        [STAGES[0] | {"keep": None, "align": ALIGN}, {"name": "full", "steps": 4, **FULL, "keep": "small"}],
        "stage small: 'small' is saved only after this stage",
    ),
    "few heads": (
        [STAGES[0] | {"shape": SMALL | {"heads": 2}}, full_with(heads=4)[1] | {"layout": {"tensor_parallel": 4}}],
        "stage full: align.teacher small: layout.tensor_parallel 4 does not divide heads of block 0",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_aligned_is_refused_in_one_line(corpus, fault):
    stages, message = REFUSED[fault]
    with pytest.raises(UserError, match=message) as caught:
        resolved(recipe(corpus, stages=stages, steps=sum(stage["steps"] for stage in stages)), 4)
    assert "\n" not in str(caught.value)


def test_a_teacher_that_cannot_teach_is_refused_before_the_ranks_start(corpus, tmp_path, whole):
    kept = whole[0] / "checkpoints" / "small"
    damaged = Path(shutil.copytree(kept, tmp_path / "damaged"))
    with (damaged / "index.json").open("a") as index:
        index.write(" ")
    unfinished = Path(shutil.copytree(whole[0], tmp_path / "unfinished"))
    (unfinished / "summary.json").unlink()
    (tmp_path / "empty").mkdir()
    other = prepared(tmp_path, made_up_documents(40, seed=5, longest=20))

    def refusal(teacher: Path, **changes) -> str:
        stages = changes.pop("stages", [{"name": "full", "steps": 2, "align": {"teacher": str(teacher)}}])
        with pytest.raises(UserError) as caught:
            check_run(recipe(corpus, stages=stages, schedule={"warmup": 0}, **changes), 1, tmp_path / "run")
        assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
        return str(caught.value)

    assert "no stage keeps it, and no folder has that path" in refusal(tmp_path / "missing")
    assert "align.teacher smal: no stage keeps it (did you mean 'small'?)" in refusal(
        kept, stages=aligned(teacher="smal")
    )
    assert "is damaged: index.json" in refusal(damaged)
    assert "is a run that has not finished, whose newest checkpoint is not always the same" in refusal(unfinished)
    assert "has neither index.json (Espalier) nor config.json (Hugging Face)" in refusal(tmp_path / "empty")
    longer = {"sequence": 64, "model": MODEL | {"max_positions": 64}}
    assert "has 32 positions, and rows have 64 tokens" in refusal(kept, **longer)
    assert "was trained with another vocabulary" in refusal(kept, data={"corpus": str(other.directory)})


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "the model to import has no bert.encoder.layer.1.output.dense.weight"),
        ("extra", "the model to import has bert.encoder.layer.7.output.dense.weight, for which"),
        (
            "narrow",
            r"bert.encoder.layer.1.output.dense.weight has shape \(16, 8\), but its config.json says \(16, 32\)",
        ),
        ("half a head", "has a part of the mlm head, but no mlm.norm.bias"),
        ("untied", "cls.predictions.decoder.weight differs from bert.embeddings.word_embeddings.weight"),
        ("no file", "has no model.safetensors; save the model there with save_pretrained"),
    ],
)
def test_a_folder_of_transformers_whose_weights_are_no_model_is_refused_before_the_ranks_start(
    corpus, tmp_path, fault, message
):
    """By the names and shapes in the header of its file, in the check that `plan` and the launcher make."""
    config = BertConfig(**MODEL | SMALL, vocab_size=Corpus.open(corpus).vocab_size)
    folder, name = tmp_path / "theirs", "bert.encoder.layer.1.output.dense.weight"
    export_model(folder, config, {name: record.weight for name, record in fresh_state(config, 0).records.items()})
    file = folder / "model.safetensors"
    state = load_file(file)
    changed = {
        "missing": lambda: state.pop(name),
        "extra": lambda: state.update({name.replace("1", "7"): state[name].clone()}),
        "narrow": lambda: state.update({name: state[name][:, :8].contiguous()}),
        "half a head": lambda: state.pop("cls.predictions.transform.LayerNorm.bias"),
        "untied": lambda: state.update({"cls.predictions.decoder.weight": torch.zeros(3, 16)}),
        "no file": lambda: None,
    }
    changed[fault]()
    save_file(state, file)
    if fault == "no file":
        file.unlink()
    stages = [{"name": "full", "steps": 2, "align": {"teacher": str(folder)}}]
    asked_for = recipe(corpus, stages=stages, schedule={"warmup": 0})
    with pytest.raises(UserError, match=f"stage full: {folder}.*{message}") as caught:
        check_run(asked_for, 1, tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def sent_by_a_teacher(stage: ResolvedStage) -> Counter:
    """What a rank sends while a teacher computes a micro-batch: how often each kind and size."""
    config = stage.align.config
    tp = replace(layout_of(stage).install(), sequence_parallel=stage.sequence_parallel)
    model = frozen.frozen_model(
        config, partial(initial_weight, config, seed=0), tp, torch.float32, stage.zero_stage == 3
    )
    batch = random_batch(config, "packed", rows=stage.micro_batch, length=stage.sequence)
    with recorded() as sent, torch.no_grad():
        model.encode(batch)
    return Counter((kind, num_bytes) for kind, _, num_bytes in sent)


@pytest.mark.parametrize("layout", [layout for layout, (num_ranks, _) in LAYOUTS.items() if num_ranks == 2])
def test_the_messages_of_a_teacher_are_those_that_are_counted(corpus, layout):
    stage = resolved(recipe(corpus, **LAYOUTS[layout][1]), 2).stages[1]
    counted = Counter()
    for message in of_teacher(replace(stage, accumulation=1)):
        counted[message.kind, message.num_bytes] += int(message.times)
    if stage.sequence_parallel:  # the model's own, of the aligned layer
        counted[ALL_GATHER, 4 * stage.micro_batch * stage.sequence * stage.config.hidden] -= 1
    assert [+counted] * 2 == pool(2).run(sent_by_a_teacher, stage)


def test_the_predicted_step_has_the_forward_pass_of_a_teacher(corpus):
    run, machine = resolved(recipe(corpus), 2), load_machine("h100")
    taught, half = (
        step_time(run, stage, machine).forward - step_time(run, replace(stage, align=None), machine).forward
        for stage in (run.stages[1], replace(run.stages[1], end=run.stages[1].start + 12))
    )
    assert taught == pytest.approx(2 * half) and taught > 0
