"""The command line: verbs, help, and mistakes as one line with exit code 2."""

import inspect
import os

import pytest
import yaml

from pretrain.__main__ import main
from pretrain.cli import VERBS, verb_function
from pretrain.recipe import load_recipe
from pretrain.runs.folder import lasting
from tests.support.corpora import made_up_documents, prepared


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plna"], "verb 'plna' is unknown (did you mean 'plan'?); choose one of demo, prepare,"),
        (["plan", "base", "--nproc", "abc"], "--nproc must be a whole number, not 'abc'; see ./launch.sh plan --help"),
        (["train", "base", "--nproc", "two"], "--nproc must be a whole number, not 'two'; see ./launch.sh train"),
        (["plan", "base", "--nproc"], "--nproc needs a value; see"),
        (["train"], "espalier: RECIPE is missing: A recipe file, or"),
        (["plan"], "espalier: plan needs a recipe, or --suggest; for example: "),
        (["train", "--helpp"], "RECIPE is missing; given is only --helpp; see"),
        (["plan", "base", "--bogus"], "unknown option --bogus; see"),
        (["plan", "base", "--nprocc", "3"], "unknown option --nprocc (did you mean --nproc?); see"),
        (["plan", "base", "extra"], "unknown argument extra; see"),
        (["plan", "tests"], "recipe 'tests' is a folder"),
        (["plan", "nowhere.yaml"], "recipe 'nowhere.yaml' is neither a file nor"),
        (["plan", "base", "--set", "steps"], "--set steps: write KEY=VALUE"),
        (["plan", "base", "--set", "stepz=3"], "unknown key stepz (did you mean 'steps'?)"),
        (["train", "base", "--dry-run", "--name", ".."], "--name '..' is no name for a folder in runs; use letters"),
        (["train", "base", "--dry-run", "--name", "../base"], "--name '../base' is no name for a folder in runs"),
        (["train", "base", "--dry-run", "--name", "/tmp/base"], "--name '/tmp/base' is no name for a folder in runs"),
        (["train", "base", "--dry-run", "--name", ""], "--name '' is no name for a folder in runs"),
        (["train", "base", "--dry-run", "--name", "x" * 300], "xx' is no name for a folder in runs; use"),
        (["plan", "base", "--set", "name=.."], "name is '..': string should match"),
        (["plan", "base", "--nproc", "0"], "--nproc 0 is too few; give at least 1"),
        (["plan", "base", "--set", "layout.tensor_parallel=2", "--nproc", "3"], "does not divide the 3 processes"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, arguments, message):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert message in printed.err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--seeds", "0"], "--seeds 0 is too few; give at least 1"),
        (["--num-examples", "0"], "--num-examples 0 is too few"),
        (["--max-length", "-1"], "--max-length -1 is too few"),
        (["--batch", "32", "0"], "--batch 0 is too few"),
        (["--lr", "3e-5", "0"], "--lr 0 is not a learning rate; give a finite number above 0"),
        (["--lr", "nan"], "--lr nan is not a learning rate"),
        (["--lr", "fast"], "['fast']; it takes FLOAT ...; see ./launch.sh finetune --help"),
        (["--grid", "devlin", "--lr", "1e-4"], "--grid devlin says which --lr, --batch and --epochs to try"),
        (["--dropout", "0,1"], "--dropout must be a number, not '0,1'; see ./launch.sh finetune --help"),
        (["--dropout", "1"], "--dropout 1 is not a probability below 1; give 0 or more, below 1"),
        (["--output", "."], "--output . is a folder; name a file, such as results.json"),
        (["--output", "file/results.json"], "file is a file, not a folder; name another place"),
        (["--output", "file/below/results.json"], "file is a file, not a folder; name another place"),
        (["--output", "n" * 300], "nn cannot be written: File name too long"),
        (["--output", "new/results.json"], "task 'none' is unknown"),
    ],
    ids=lambda value: "=".join(value) if isinstance(value, list) else "",
)
def test_finetune_finds_mistakes_before_it_trains(tmp_path, monkeypatch, capsys, option, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["finetune", "runs/none", "--task", "none", *option]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_choice_is_between_what_can_be_chosen(capsys):
    assert main(["finetune", "x", "--task", "sst2", "--precision", "fp16"]) == 2
    printed = capsys.readouterr().err
    assert "'fp32'" in printed and "'bf16'" in printed and "None" not in printed


def test_finetune_finds_a_folder_that_it_may_not_write_to(monkeypatch, capsys):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")  # root may write everywhere

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert main(["finetune", "runs/none", "--task", "none", "--output", "results.json"]) == 2
    assert "--output results.json cannot be written: Permission denied" in capsys.readouterr().err


def test_an_interrupted_verb_ends_without_a_traceback(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pretrain.cost.plan.print_plan", interrupted)
    assert main(["plan", "base"]) == 130
    assert capsys.readouterr() == ("", "")


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_begins_with_its_summary_and_explains_every_option(verb):
    function = verb_function(verb)
    assert function.__doc__.splitlines()[0] == VERBS[verb]
    options = inspect.signature(function).parameters
    undocumented = [option for option in options if f"\n        {option}: " not in function.__doc__]
    assert undocumented == (["corpus"] if verb == "prepare" else [])  # whose fields explain themselves


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "doctor"])
def test_help_shows_no_words_of_the_parser(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = capsys.readouterr().out
    assert not any(words in shown for words in ("{None}", "(default: )", "(default: None)", "(default: '')", "[["))


def test_plan_prints_shapes_work_memory_and_schedule(capsys):
    assert main(["plan", "base", "--nproc", "8"]) == 0
    out = capsys.readouterr().out
    assert "12x768" in out
    assert "110,106,428" in out  # with both heads
    assert "900,000" in out
    assert "0.0001" in out


def test_plan_checks_where_the_run_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "mini", "--set", "start=weights"]) == 0
    assert "start weights does not exist yet: it was not checked" in capsys.readouterr().out
    (tmp_path / "weights").mkdir()
    assert main(["plan", "mini", "--set", "start=weights"]) == 2
    assert "weights" in capsys.readouterr().err


TINY = """
name: tiny
model: {layers: 2, hidden: 32, heads: 2, ffn: 64, max_positions: 32}
data: {corpus: CORPUS}
optimizer: {lr: 1e-3}
sequence: 32
batch: {global: 8}
stages: [{name: only, steps: 4}, {name: deep, steps: 4, grow: stack}]
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("cli"), made_up_documents(30)).directory


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", None),
        ("data.corpus=nowhere", "corpus nowhere does not exist; make it with the verb prepare"),
        ("model.vocab_size=77", "model.vocab_size 77 is not the corpus's"),
        ("model.heads=3", "hidden 32 is not a multiple of heads 3"),
        ("layout.tensor_parallel=4", "does not divide"),
        ("batch.global=7", "batch.global 7 is not a multiple of the 2 data-parallel ranks"),
        ("sequence=64", "sequence 64 is longer than model.max_positions 32"),
        ("stages.deep.shape.hidden=48", "hidden 32 -> 48 is not reached by grow"),
        (
            "stages.deep.grow=[stack, {rewind: {checkpoint: intial}}]",
            "no stage keeps 'intial' (did you mean 'initial'",
        ),
        ("deepspeed=mine.json", "mine.json sets gradient_clipping to 3, but the recipe owns it"),
        ("precision=fp8", "precision is 'fp8'"),
    ],
)
def test_train_checks_everything_before_it_starts(tmp_path, monkeypatch, capsys, corpus, override, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY.replace("CORPUS", str(corpus)))
    (tmp_path / "mine.json").write_text('{"zero_optimization": {"stage": 1}, "gradient_clipping": 3}')
    code = main(["train", "tiny.yaml", "--nproc", "2", "--dry-run", "--set", override])
    printed = capsys.readouterr().err
    assert (code, printed.count("\n")) == ((2, 1) if message else (0, 0))
    assert (message or "") in printed
    assert not (tmp_path / "runs").exists()


def test_only_a_new_run_is_refused_for_a_rule_that_can_never_hold(tmp_path, monkeypatch, capsys, corpus):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY.replace("CORPUS", str(corpus)))
    override = "stages.0.until={loss: {below: 2, every: 1000}}"
    for verb in (["plan"], ["train", "--dry-run"]):
        assert main([*verb, "tiny.yaml", "--set", override]) == 2
        assert "until.loss" in capsys.readouterr().err
    (tmp_path / "runs" / "tiny" / "checkpoints" / "step-2").mkdir(parents=True)
    begun = yaml.safe_dump(lasting(load_recipe("tiny.yaml", [override])))
    (tmp_path / "runs" / "tiny" / "recipe.yaml").write_text(begun)
    assert main(["train", "--dry-run", "tiny.yaml", "--set", override]) == 0


def test_of_all_ranks_the_first_to_find_a_mistake_tells_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("ESPALIER_EXIT_CODE_FILE", str(tmp_path / "code"))
    monkeypatch.setenv("ESPALIER_RANK_PROCESS", str(os.getpid()))
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert main(["trian"]) == 2
    assert (tmp_path / "code").read_text() == "2\n"
    assert capsys.readouterr().err.count("espalier: verb 'trian' is unknown") == 1


def test_plan_answers_for_a_gpu_where_there_is_none(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    shown = {}
    for device in ("auto", "cpu", "gpu"):
        assert main(["plan", "large", "--nproc", "8", "--device", device]) == 0
        shown[device] = capsys.readouterr().out
    assert main(["plan", "large", "--set", "precision=bf16", "--set", "deepspeed=ds_configs/zero0.json"]) == 0
    assert "ZeRO 0 in bf16" in capsys.readouterr().out and "ZeRO 0" not in shown["gpu"]
    assert "on a GPU" in shown["gpu"] and "of the GPU" in shown["gpu"]
    assert shown["auto"] == shown["cpu"] and "on a CPU" in shown["cpu"] and "of the GPU" not in shown["cpu"]
