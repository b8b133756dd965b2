"""ModernBERT on both sides: the same loss from the same weights, packed and padded, against the fastest of theirs."""

import pytest

from growth.state import fresh_state
from model.bert import BertForPreTraining
from model.config import MODERNBERT, BertConfig
from pretrain.interop.huggingface import export_model
from pretrain.profile import modern
from pretrain.profile.against import Contender, Workload, packed_batches, padded_rows

CONFIG = BertConfig(layers=3, hidden=32, heads=2, ffn=48, vocab_size=128, **MODERNBERT).replace(
    local_attention={"window": 8, "global_every": 3, "theta": 10_000.0}
)
VARIED, FULL = Workload.varied(CONFIG, 32, 12), Workload.full(CONFIG, 32, 4)


@pytest.mark.parametrize("workload", [VARIED, FULL], ids=["varied", "full"])
@pytest.mark.parametrize("attention", modern.ATTENTIONS)
def test_packed_padded_and_theirs_have_the_same_loss(tmp_path, workload, attention):
    transformers = pytest.importorskip("transformers")
    weights = {name: record.weight for name, record in fresh_state(CONFIG, seed=3).records.items()}
    model = BertForPreTraining(CONFIG)
    model.load_weights(weights.__getitem__)
    export_model(tmp_path, CONFIG, weights)
    theirs = transformers.ModernBertForMaskedLM.from_pretrained(
        tmp_path, attn_implementation=attention, sparse_prediction=True
    )
    rows = {name: padded_rows(workload)[name] for name in ("input_ids", "attention_mask", "labels")}
    expected = theirs(**rows).loss.item()
    num_masked = sum(len(where) for where in workload.sequences()[1])
    for packed in (True, False):
        batches = packed_batches(workload, 2, packed)
        assert sum(model(batch, 1 / num_masked).loss.item() for batch in batches) == pytest.approx(expected, rel=1e-5)
        if workload is VARIED:
            assert (sum(len(batch.ids) for batch in batches) == len(workload.lengths)) is not packed


def test_the_fastest_of_theirs_counts_round_by_round(monkeypatch, capsys):
    def step(compiled):
        if compiled:
            raise RuntimeError("no such operator")

    def compare(contenders, precision, num_rounds):
        assert contenders.keys() - {"packed", "padded", "full"} == {"sdpa", "eager"}, "what does not compile is out"
        own = {"packed": 60.0, "padded": 30.0, "full": 40.0}
        return [
            {"matmul": 1e12, "sdpa": 20.0, "eager": eager} | {name: own[name] for name in contenders if name in own}
            for eager in (10.0, 10.0, 30.0)
        ]

    monkeypatch.setattr(modern, "ours", lambda *_, **__: Contender(VARIED, lambda: None))
    monkeypatch.setattr(modern, "modernbert", lambda *_, compiled: Contender(VARIED, lambda: step(compiled)))
    monkeypatch.setattr(modern, "can_compile", lambda: True)
    monkeypatch.setattr(modern, "compare", compare)
    rows = modern.rows_against_modernbert(3, "fp32", CONFIG, 32, 12)
    assert [(row.target, row.median, row.low, row.high) for row in rows] == [
        (2.5, 3.0, 2.0, 3.0),
        (None, 1.5, 1.0, 1.5),
        (None, 2.0, 2.0, 2.0),
        (1.5, 2.0, 40 / 30, 2.0),
    ]
    assert "sdpa, compiled: does not work here (RuntimeError)" in capsys.readouterr().out
