"""GLUE's files are read as GLUE writes them, and a model of any shape learns from them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model.errors import UserError
from pretrain.finetune.fit import fit, shuffled_batches
from pretrain.finetune.glue import open_glue
from pretrain.finetune.pooling import MeanPooled
from pretrain.finetune.pretrained import Pretrained, model_folder
from pretrain.finetune.results import table, write_results
from pretrain.finetune.run import finetune, open_task
from pretrain.finetune.sentences import Example, Sentences
from pretrain.finetune.tasks import TASKS, Settings
from tests.support.benchmark_files import write_sst2, write_tsv
from tests.support.run_on_disk import make_corpus, make_run

QUICK = Settings(lr=3e-3, batch=8, epochs=4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpora") / "small")


@pytest.mark.parametrize(
    "shape",
    [dict(), dict(heads=(4, 1), ffn=(10, 48), sentence_head=False), dict(norm="pre", layers=4, sharing=2)],
    ids=["plain", "ragged", "shared, pre-LN"],
)
def test_a_checkpoint_learns_a_task_and_results_are_written(corpus, tmp_path, shape):
    make_run(tmp_path / "run", corpus, **shape)
    (result,) = finetune(tmp_path / "run", "sst2", [QUICK], [0, 1], write_sst2(tmp_path))
    assert result.values("accuracy") == [1.0, 1.0]
    write_results(tmp_path / "out" / "sst2.json", {"task": "sst2"}, [result])
    written = json.loads((tmp_path / "out" / "sst2.json").read_text())["results"][0]
    assert written["accuracy"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert written["settings"]["lr"] == 3e-3
    assert "accuracy 1 (1 to 1)" in table([result])


def test_the_mean_of_all_states_tells_sentences_apart(corpus, tmp_path):
    make_run(tmp_path / "run", corpus, sentence_head=False)
    (result,) = finetune(tmp_path / "run", "sst2", [QUICK], [0], write_sst2(tmp_path), pooling="mean")
    assert result.values("accuracy") == [1.0]


def test_padding_has_no_part_in_the_mean():
    class Encoder(torch.nn.Embedding):
        config = SimpleNamespace(hidden_size=4, hidden_dropout_prob=0.0)

        def forward(self, input_ids, attention_mask):
            return SimpleNamespace(last_hidden_state=super().forward(input_ids))

    encoder = Encoder(9, 4)
    model = MeanPooled(encoder, 1)
    ids, mask = torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    means = torch.stack([encoder.weight[[1, 2]].mean(0), encoder.weight[[3, 4, 5]].mean(0)])
    out = model(input_ids=ids, attention_mask=mask, labels=torch.tensor([1.0, 2.0]))
    assert torch.allclose(out.logits, means @ model.output.weight.T)
    assert out.loss.item() == pytest.approx(((out.logits[:, 0] - torch.tensor([1.0, 2.0])) ** 2).mean().item())


def test_an_encoder_of_another_family_is_pooled():
    from transformers import DistilBertConfig, DistilBertModel

    encoder = DistilBertModel(DistilBertConfig(vocab_size=9, dim=8, n_layers=1, n_heads=2, hidden_dim=8, dropout=0.3))
    model = MeanPooled(encoder, 2)
    assert model.dropout.p == 0.3
    ids = torch.tensor([[1, 2, 3]])
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape == (1, 2)


def test_the_same_seed_gives_the_same_scores(corpus, tmp_path):
    make_run(tmp_path / "run", corpus)
    data = write_sst2(tmp_path, 24)
    short = Settings(lr=1e-3, batch=8, epochs=1)
    both, alone = (next(finetune(tmp_path / "run", "sst2", [short], seeds, data)).scores for seeds in ([3, 4], [4]))
    assert both[1] == alone[0]


def test_mrpc_without_dev_holds_out_a_tenth_of_train(tmp_path, capsys):
    head = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    rows = [f'{n % 2}\t{n}\t{n}\tHe said "no {n}\tA man said no\r\n' for n in range(50)]
    problem = open_glue(TASKS["mrpc"], write_tsv(tmp_path, train="\ufeff" + head + "".join(rows)), 64)
    assert (len(problem.train), len(problem.dev["dev"])) == (45, 5)
    seen = {example.sentences[0] for example in problem.train}
    assert seen.isdisjoint(example.sentences[0] for example in problem.dev["dev"])
    assert problem.train[0].sentences[0].startswith('He said "no ')
    again = open_glue(TASKS["mrpc"], tmp_path, 64)
    assert again.dev == problem.dev
    assert problem.scored_on == "a tenth of train.tsv"
    assert "has no dev.tsv: scoring a tenth of train.tsv, 5 pairs" in capsys.readouterr().err
    write_tsv(tmp_path, dev=head + rows[0])
    assert open_glue(TASKS["mrpc"], tmp_path, 64).scored_on == "the dev set"


def test_cola_has_no_header_and_stsb_has_numbers(tmp_path):
    line = "gj04\t{}\t*\tA sentence, {}.\n"
    rows = "".join(line.format(n % 2, n) for n in range(3))
    cola = open_glue(TASKS["cola"], write_tsv(tmp_path / "CoLA", train=rows, dev=rows), 64)
    assert [example.label for example in cola.train] == [0, 1, 0]
    assert cola.train[0].sentences == ("A sentence, 0.",)
    rows = "index\tsentence1\tsentence2\tscore\n0\ta\tb\t4.25\n1\tc\n2\td\te\t0\n"
    stsb = open_glue(TASKS["stsb"], write_tsv(tmp_path / "STS-B", train=rows, dev=rows), 64)
    assert [example.label for example in stsb.train] == [4.25, 0.0]
    assert stsb.num_outputs == 1


def test_only_a_line_feed_ends_a_row(tmp_path):
    rows = "sentence\tlabel\r\nOne\rline\t1\r\n\r\nTwo\u2028lines\t0\r\n"
    sst2 = open_glue(TASKS["sst2"], write_tsv(tmp_path, train=rows, dev=rows), 64)
    assert [(*example.sentences, example.label) for example in sst2.train] == [("One\rline", 1), ("Two\u2028lines", 0)]


def test_mnli_is_scored_on_both_files(tmp_path):
    rows = "index\tsentence1\tsentence2\tgold_label\n0\ta\tb\tneutral\n1\ta\tb\tcontradiction\n"
    folder = write_tsv(tmp_path / "MNLI", train=rows, dev_matched=rows, dev_mismatched=rows)
    problem = open_task("mnli", folder, None)
    logits = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]).numpy()
    scores = problem.score(lambda *columns, **_: {"input_ids": [[0]] * len(columns[0])}, lambda features: (logits,))
    assert scores == {"accuracy_matched": 0.5, "accuracy_mismatched": 0.5}


def test_every_row_once_an_epoch_and_hardly_any_padding():
    lengths = np.random.default_rng(0).integers(5, 60, 1003)
    batches = list(shuffled_batches(lengths, 16, np.random.default_rng(1)))
    assert sorted(np.concatenate(batches)) == list(range(1003))
    padded = sum(len(batch) * max(lengths[batch]) for batch in batches)
    assert padded < 1.1 * lengths.sum()


class Slope(torch.nn.Module):
    """A weight that every step moves by the learning rate against the sign of its gradient, as Adam does at first."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, input_ids):
        self.seen.append(self.weight.item())
        return SimpleNamespace(loss=self.weight.clone())


def test_the_rate_rises_over_the_warmup_and_falls_to_zero():
    model = Slope()
    fit(model, [{"input_ids": [1]}] * 10, Settings(lr=1e-3, batch=1, epochs=1, warmup=0.5), 0, 0, bf16=False)
    steps = -np.diff([*model.seen, model.weight.item()])
    assert steps == pytest.approx([1e-3 * part / 5 for part in (1, 2, 3, 4, 5, 5, 4, 3, 2, 1)], rel=1e-3)


SST2, STSB = "sentence\tlabel\n", "sentence1\tsentence2\tscore\n"


@pytest.mark.parametrize(
    ("task", "files", "message"),
    [
        ("sst3", {}, r"task 'sst3' is unknown \(did you mean 'sst2'\?\)"),
        ("sst2", {}, "holds no SST-2/train.tsv; name a folder with GLUE's files by --data"),
        ("sst2", dict(train="text\tlabel\na\t1\n"), "has no column 'sentence', its first line is 'text label'; give"),
        ("sst2", dict(train=""), "train.tsv has no column 'sentence', its first line is ''; give GLUE's own file"),
        ("sst2", dict(dev=SST2), r"dev.tsv holds no examples \(0 lines lack a column\); give GLUE's own file"),
        ("sst2", dict(train=SST2 + "a\nb\n"), r"train.tsv holds no examples \(2 lines lack a column\)"),
        ("cola", dict(train=""), "train.tsv holds no example"),
        (
            "sst2",
            dict(train=SST2 + "a\t1\n\nb\tgood\n"),
            "train.tsv, line 4: label 'good' is not 0 or 1; correct the line",
        ),
        ("stsb", dict(train=STSB + "a\tb\tx\n"), "label 'x' is not a number from 0 to 5; correct the line"),
        ("stsb", dict(train=STSB + "a\tb\t5\na\tb\tnan\n"), "train.tsv, line 3: label 'nan' is not a number"),
        ("stsb", dict(train=STSB + "a\tb\t1e300\n"), "label '1e300' is not a number"),
        ("sst2", dict(dev=None), "has no dev.tsv, which SST-2 is scored on"),
        ("mnli", dict(dev_matched=None), "has no dev_matched.tsv"),
        (
            "mrpc",
            dict(dev=None, train="Quality\t#1 String\t#2 String\n" + "1\ta\tb\n" * 4),
            "has no dev.tsv, and 4 pairs in train.tsv have no tenth; add some",
        ),
        ("squad", {}, "has no train-v1.1.json"),
    ],
)
def test_mistakes_are_one_line(tmp_path, task, files, message):
    good = dict.fromkeys(("train", "dev", "dev_matched", "dev_mismatched"), SST2 + "a\t1\n") if files else {}
    written = {name: text for name, text in {**good, **files}.items() if text is not None}
    with pytest.raises(UserError, match=message) as caught:
        open_task(task, write_tsv(tmp_path, **written), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("task", "least"), [("sst2", 3), ("rte", 5)])
def test_a_length_without_room_for_text_is_refused(corpus, tmp_path, task, least):
    make_run(tmp_path / "run", corpus)
    with model_folder(tmp_path / "run") as folder:
        tokenizer = Pretrained(folder).tokenizer()
    example = Example(("the old dog", "a green house")[: len(TASKS[task].columns)], 0)
    problem = Sentences(TASKS[task].labels, {}, [example], {"dev": [example]}, "the dev set", least)
    (features,) = problem.training_features(tokenizer)
    assert len(features["input_ids"]) == least
    problem.max_length = least - 1
    with pytest.raises(UserError, match=f"{least - 1} tokens have no room for .* give --max-length {least} or more"):
        problem.training_features(tokenizer)
