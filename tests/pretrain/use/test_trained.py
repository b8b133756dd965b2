"""What is said of a checkpoint when it is opened."""

import pytest

from pretrain.__main__ import main
from pretrain.finetune.pretrained import model_folder
from pretrain.training.events import Evaluation
from pretrain.use.evaluate import Evaluated, print_evaluation
from pretrain.use.export import export
from tests.support.run_on_disk import make_corpus, make_run


@pytest.mark.parametrize(("objective", "times"), [("clm", 1), ("mlm", 0)])
def test_a_causal_checkpoint_is_used_both_ways_with_one_line(tmp_path, capsys, objective, times):
    make_run(tmp_path / "run", make_corpus(tmp_path / "corpus"), objective)
    run, text = str(tmp_path / "run"), tmp_path / "lines.txt"
    text.write_text("the old river\n")
    verbs = [["fill", run, "the [MASK] river"], ["embed", run, str(text), "--output", f"{run}/a.npy"], ["export", run]]
    for words in verbs:
        assert main(words) == 0
        assert capsys.readouterr().err.count("was last trained with objective clm") == times, words


@pytest.mark.parametrize(("objective", "times"), [("clm", 1), ("mlm", 0)])
def test_so_is_one_that_is_fine_tuned(tmp_path, capsys, objective, times):
    make_run(run := tmp_path / "run", make_corpus(tmp_path / "corpus"), objective)
    for folder in (run, export(run)):
        capsys.readouterr()
        with model_folder(folder):
            assert capsys.readouterr().err.count("was last trained with objective clm") == times, folder


def test_an_evaluation_says_what_was_predicted(tmp_path, capsys):
    for objective, words in (("mlm", "masked tokens"), ("clm", "each next token")):
        print_evaluation(tmp_path, Evaluated(Evaluation(1.5, 0.25), 8, objective))
        assert f"{words} of held-out text" in capsys.readouterr().out
