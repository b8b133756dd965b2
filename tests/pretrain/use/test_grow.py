"""The verb `grow`: from checkpoint to checkpoint, what the change in memory gives, on any number of processes."""

import shutil
from contextlib import redirect_stderr
from io import StringIO

import pytest
import torch

from growth.moments import of_gradients, of_unit_gradients, of_unit_model_gradients
from growth.operators import make_operator, shape_change
from growth.operators.base import Inputs
from growth.state import Record
from model.errors import UserError
from model.parameters import parameter_table
from pretrain.__main__ import main
from pretrain.checkpoint import load_checkpoint
from pretrain.data import PrepareOptions, prepare
from pretrain.interop.huggingface import export_model
from pretrain.training.train import train
from pretrain.use.evaluate import evaluate_checkpoint
from pretrain.use.export import export
from pretrain.use.grow import _put, grow, open_state, own_tokenizer, read_shape, save_state
from tests.support.harness import CONFIG, same, whole_state
from tests.support.proving import random_state
from tests.support.run_on_disk import make_corpus, make_run
from tests.support.tiny import metrics, tiny_corpus, tiny_recipe
from tests.support.workers import pool

OPERATORS = ["stack", "{widen: {axis: ffn, how: fpi}}"]
TO = ["layers=3", "ffn=100"]


def fp32_state() -> dict[str, Record]:
    state = random_state(CONFIG)
    return {
        name: Record(*(tensor.float() for tensor in record.tensors()), record.step) for name, record in state.items()
    }


def saved(path: str, recipe: dict | None = None) -> None:
    import torch.distributed as dist

    from growth.state import TrainingState, assign_owners

    owners = assign_owners(CONFIG, dist.get_world_size())
    state = fp32_state()
    mine = {name: state[name] for name, owner in owners.items() if owner == dist.get_rank()}
    steps = {name: record.step for name, record in state.items()}
    run = {"corpus": "c"} | ({"recipe": recipe} if recipe else {})
    save_state(TrainingState(CONFIG, owners, steps, mine), run, path)


def grown_offline(path, out) -> tuple[dict[str, Record], dict]:
    grow(path, TO, OPERATORS, out)
    state, run = load_checkpoint(out)
    return whole_state(state), run


@pytest.mark.parametrize(("ranks_before", "ranks"), [(1, 1), (2, 1), (1, 2)])
def test_offline_is_what_memory_gives(tmp_path, ranks_before, ranks):
    pool(ranks_before).run(saved, tmp_path / "old")
    operators = [make_operator("stack", {}), make_operator("widen", {"axis": "ffn", "how": "fpi"})]
    change = shape_change(CONFIG, operators, {"layers": 3, "ffn": 100})
    state = fp32_state()
    expected = {name: change.record(name, state.__getitem__) for name in parameter_table(change.target)}
    for found, run in pool(ranks).run(grown_offline, tmp_path / "old", tmp_path / "new"):
        assert same(expected, found)
        assert run["corpus"] == "c"
        assert run["grown"]["operators"] == ["stack", "widen"]
    sums = (tmp_path / "new" / "SHA256SUMS").read_text().splitlines()
    assert len(sums) == ranks + 1


@pytest.mark.parametrize(
    ("optimizer", "rule"),
    [
        ({"name": "adamw", "lr": 1e-3}, of_gradients),
        ({"name": "lans", "lr": 1e-3}, of_unit_gradients),
        ({"name": "lamb", "lr": 1e-3, "prenormalize": "always"}, of_unit_model_gradients),
    ],
    ids=["adamw", "lans", "nvlamb"],
)
def test_offline_follows_the_moment_rule_of_the_runs_optimizer(tmp_path, optimizer, rule):
    pool(1).run(saved, tmp_path / "old", {"optimizer": optimizer})
    state = fp32_state()
    operators = [make_operator("stack", {}), make_operator("widen", {"axis": "ffn", "how": "fpi"})]
    inputs = Inputs(fetch=state.__getitem__, moments=rule)
    change = shape_change(CONFIG, operators, {"layers": 3, "ffn": 100}, inputs)
    expected = {name: change.record(name, state.__getitem__) for name in parameter_table(change.target)}
    [(found, _)] = pool(1).run(grown_offline, tmp_path / "old", tmp_path / "new")
    assert same(expected, found)


def from_huggingface(path, out) -> tuple[dict[str, Record], bool]:
    grow(path, ["layers=4"], [], out)
    state, _ = open_state(out)
    return whole_state(state), state.config.layers == 4


def test_grows_a_model_of_transformers(tmp_path):
    """Weights only: moments and steps start at zero. Without operators, those of `grow: auto`."""
    config = CONFIG.replace(hidden_dropout=0.1)
    weights = {name: record.weight for name, record in fp32_state().items()}
    export_model(tmp_path / "bert", config, weights)
    [(found, is_deep)] = pool(1).run(from_huggingface, tmp_path / "bert", tmp_path / "deep")
    assert is_deep
    name = "attention.query.weight"
    assert torch.equal(found[f"blocks.3.{name}"].weight, weights[f"blocks.1.{name}"])
    assert all(record.step == 0 and not record.exp_avg_sq.any() for record in found.values())


def complaint_of_evaluation(path, corpus) -> str:
    try:
        evaluation, *_ = evaluate_checkpoint(path, corpus, 8)
    except UserError as error:
        return str(error)
    assert 0 < evaluation.loss < 20
    return ""


def test_what_grew_from_transformers_is_used_like_any_checkpoint(tmp_path, capsys):
    """Its tokenizer goes along, through a second growth too; a corpus of that vocabulary fits it.

    Also one prepared with the model's tokenizer.json, which frames texts as no file of a corpus does.
    """
    corpus = make_corpus(tmp_path / "small")
    make_run(tmp_path / "run", corpus)
    bert, grown, again = export(tmp_path / "run"), tmp_path / "grown", tmp_path / "again"
    own, text = tmp_path / "own", str(tmp_path / "small.txt")
    prepare(PrepareOptions((text,), own, vocab=bert / "tokenizer.json", num_workers=1))
    [_] = pool(1).run(from_huggingface, bert, grown)
    [_] = pool(1).run(from_huggingface, grown, again)
    for path in (grown, again):
        assert main(["fill", str(path), "the [MASK] sings", "--guesses", "2"]) == 0
        assert capsys.readouterr().out.count(" sings") == 2
        [found] = pool(1).run(complaint_of_evaluation, path, None)
        assert "was trained on no corpus that is known here; name one of its vocabulary by --corpus" in found
        for name in (corpus.directory, own):
            assert pool(1).run(complaint_of_evaluation, path, str(name)) == [""]
        for name in (None, str(corpus.directory)):
            export(path, tmp_path / "out", name)
            assert (tmp_path / "out" / "tokenizer.json").read_text() == (bert / "tokenizer.json").read_text()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# again, grown" not in card and "# grown, grown" in card
    assert str(tmp_path) not in card


def kept_tokenizer(path, out) -> tuple[bool | None, str]:
    """Whether it lowers the case, None where none was kept; and what was said."""
    with redirect_stderr(StringIO()) as said:
        grow(path, ["layers=4"], [], out)
    tokenizer = own_tokenizer(out)
    return tokenizer and tokenizer.lowers_case, said.getvalue()


def test_a_model_of_vocab_txt_alone_keeps_its_words_and_whether_it_lowers_the_case(tmp_path):
    corpus = make_corpus(tmp_path / "small")
    make_run(tmp_path / "run", corpus)
    bert = export(tmp_path / "run")
    (bert / "tokenizer.json").unlink()
    shutil.copy(corpus.directory / "vocab.txt", bert)
    settings = bert / "tokenizer_config.json"  # an export's says nothing of case
    assert pool(1).run(kept_tokenizer, bert, tmp_path / "uncased") == [(True, "")]
    assert pool(1).run(complaint_of_evaluation, tmp_path / "uncased", str(corpus.directory)) == [""]
    settings.write_text('{"do_lower_case": false}')
    assert pool(1).run(kept_tokenizer, bert, tmp_path / "cased") == [(False, "")]
    settings.write_text("{do_lower_case")
    [found] = pool(1).run(complaint, bert, ["layers=4"], [], tmp_path / "broken")
    assert f"{settings} cannot be read" in found and "\n" not in found


def test_what_grew_without_a_tokenizer_asks_for_a_corpus(tmp_path):
    corpus = make_corpus(tmp_path / "small")
    make_run(tmp_path / "run", corpus)
    bert = export(tmp_path / "run")
    (bert / "tokenizer.json").unlink()
    grown = tmp_path / "run" / "checkpoints" / "grown"  # in a run's folder, but not part of its history
    [(kept, said)] = pool(1).run(kept_tokenizer, bert, grown)
    assert kept is None
    assert f"{bert} has no tokenizer.json or vocab.txt: no tokenizer is copied" in said and said.count("\n") == 1
    with pytest.raises(UserError, match="name one of its vocabulary by --corpus"):
        export(grown, tmp_path / "out")
    export(grown, tmp_path / "out", str(corpus.directory))
    assert "## Stages" not in (tmp_path / "out" / "README.md").read_text()


def trained(recipe, folder) -> dict[str, float]:
    """The correlation a run measured when its layers parted."""
    train(recipe, folder)
    return next(line["values"] for line in metrics(folder) if line.get("event") == "gradient_correlation")


def unshared_offline(path, out) -> tuple[dict[str, Record], dict, dict[str, Record]]:
    grow(path, [], ["unshare"], out)
    state, run = load_checkpoint(out)
    return whole_state(state), run, whole_state(open_state(path)[0])


def test_correlation_is_measured_on_the_corpus_of_the_run(tmp_path):
    stages = [{"name": "tied", "steps": 2}, {"name": "untied", "steps": 1, "grow": "unshare"}]
    corpus = tiny_corpus(tmp_path).path
    recipe = tiny_recipe(corpus, stages=stages, schedule={})
    [in_memory] = pool(1).run(trained, recipe, tmp_path / "run")
    before = tmp_path / "run" / "checkpoints" / "step-00000002"
    [(after, run, shared)] = pool(1).run(unshared_offline, before, tmp_path / "new")
    found = run["grown"]["correlation"]
    # Its micro-batches were smaller. The softmax cancels a bias of the keys: its gradient is nothing but rounding.
    del found["blocks.0.attention.key.bias"], in_memory["blocks.0.attention.key.bias"]
    assert found == pytest.approx(in_memory, abs=0.02)
    name = "attention.query.weight"
    factor = 2 / (1 + found[f"blocks.0.{name}"])
    expected = shared[f"blocks.0.{name}"].exp_avg_sq * factor
    torch.testing.assert_close(after[f"blocks.1.{name}"].exp_avg_sq, expected)

    corpus.rename(tmp_path / "moved")
    [found] = pool(1).run(complaint, before, [], ["unshare"], tmp_path / "newer")
    assert "gradients cannot be measured here" in found and found.endswith("a number from 0 to 1")
    assert "\n" not in found


def complaint(path, to, operators, out) -> str:
    try:
        grow(path, to, operators, out)
    except UserError as error:
        return str(error)
    return ""


def test_mistakes_are_one_line(tmp_path):
    pool(1).run(saved, tmp_path / "old")
    (tmp_path / "taken").mkdir()
    cases = [
        (tmp_path / "nowhere", ["layers=4"], [], "new", "does not exist"),
        (tmp_path / "old", ["layers=4"], [], "taken", "exists already"),
        (tmp_path / "old", ["depth=4"], [], "new", "--to depth=4: write FIELD=VALUE"),
        (tmp_path / "old", ["layers=4"], ["stak"], "new", "grow 'stak' is unknown (did you mean 'stack'?)"),
        (tmp_path / "old", ["layers=4"], ["[stack]"], "new", "write a name such as stack"),
        (tmp_path / "old", ["ffn=80"], ["stack"], "new", "ffn 72 -> 80 is not reached by grow; add widen"),
        (tmp_path / "old", ["tiny", "heads=4"], [], "new", "head_dim 8 -> 64 is not reached by grow"),
        (tmp_path / "old", ["ffn=144"], ["{widen: {moments: new_units}}"], "new", "moments new_units counts the steps"),
        (tmp_path / "old", ["hidden=48"], ["widen"], "new", "hidden 32 -> 48 is not a multiple"),
    ]
    for path, to, operators, out, message in cases:
        [found] = pool(1).run(complaint, path, to, operators, tmp_path / out)
        assert message in found, found
        assert "\n" not in found
    assert not (tmp_path / "new").exists()


def test_shapes_on_the_command_line():
    assert read_shape(["ffn=[10, 20]", "sharing=null"]) == {"ffn": (10, 20), "sharing": None}
    assert read_shape(["tiny", "layers=3"])["layers"] == 3
    assert read_shape(["tiny"])["head_dim"] == 64, "a preset is all of that shape, not its heads at another width"
    assert read_shape(["low_rank={feedforward.input: 8}"]) == {"low_rank": {"feedforward.input": 8}}


def test_of_several_that_write_to_one_place_the_first_wins_and_the_others_say_so(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.json").write_text(name)
    assert _put(tmp_path / "one", tmp_path / "out") is None
    fault = str(_put(tmp_path / "two", tmp_path / "out"))
    assert fault.endswith("cannot be written: Directory not empty; name a new folder")
    assert (tmp_path / "out" / "index.json").read_text() == "one"
    assert not (tmp_path / "two").exists()
