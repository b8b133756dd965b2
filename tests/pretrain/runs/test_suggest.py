"""From a text and hours to a recipe."""

from pathlib import Path

import pytest

from model.errors import UserError
from pretrain.__main__ import main
from pretrain.runs.forecast import Speed, run_flops
from pretrain.runs.suggest import Text, suggest, suggestion_lines
from tests.support.tiny import tiny_corpus

CORE = 2e11
"""FLOP/s of a core with bf16, about."""


def test_a_laptop_runs_by_the_clock_and_gets_a_command_that_works():
    text = Text.of("50MB")
    assert text.tokens == 12.5e6
    found = suggest(text, 3, 2, has_gpus=False, flops_per_second=CORE)
    assert (found.recipe, found.overrides) == ("laptop", ("hours=3",))
    lines = list(suggestion_lines(text, found, Speed(CORE, Path("runs/laptop")), "as runs/laptop reached", 2))
    assert lines[1].endswith("2 processes, 2e+11 FLOP/s together (as runs/laptop reached)")
    assert lines[3].lstrip().startswith("expect   3 hours, ")
    assert lines[-2].strip() == "./launch.sh prepare my-texts/ --output corpora/mine --vocab-size 8192"
    command = "./launch.sh train laptop --set data.corpus=corpora/mine --set hours=3 --nproc 2"
    assert lines[-1].strip() == command


def test_a_small_text_is_not_read_a_hundred_times():
    found = suggest(Text.of("1MB"), 8, 1, has_gpus=False, flops_per_second=CORE)
    (hours,) = found.overrides
    assert 0 < float(hours.removeprefix("hours=")) < 2
    assert "over 40 times" in found.reason


def test_gpus_get_what_their_hours_allow():
    text, eight = Text.of("16GB"), 8 * 156e12
    assert suggest(text, 0.1, 8, True, eight).recipe == "academic-base"
    assert suggest(text, 24, 8, True, eight).recipe == "espalier-large"
    dear = suggest(text, 48, 8, True, eight)
    assert dear.recipe == "lamb-large" and run_flops(dear.run) <= 48 * 3600 * eight
    assert suggest(Text.of("100MB"), 48, 8, True, eight).recipe == "academic-base", "it would be read 3,400 times"


def test_a_text_is_known_by_its_corpus_its_folder_or_its_size(tmp_path):
    corpus = tiny_corpus(tmp_path)
    prepared = Text.of(str(corpus.path))
    assert prepared.tokens == corpus.manifest["splits"]["train"]["num_tokens"] and not prepared.sources
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("abcde" * 100)
    (tmp_path / "texts" / "a.pdf").write_text("abcde" * 100)
    assert Text.of(str(tmp_path / "texts")).tokens == 125
    for wrong in ("fifty", str(tmp_path / "texts" / "a.pdf")):
        with pytest.raises(UserError, match="--suggest"):
            Text.of(wrong)


def test_the_speed_is_tried_where_no_run_tells_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pretrain.profile.trial.trial_flops_per_second", lambda *_: CORE)
    assert main(["plan", "--suggest", "50MB", "--hours", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("measuring laptop for some steps")
    assert said[-1].split()[:3] == ["./launch.sh", "train", "laptop"]
    assert main(["plan", "--suggest", "50MB"]) == 2
    assert main(["plan"]) == 2
    assert "plan needs a recipe, or --suggest" in capsys.readouterr().err
