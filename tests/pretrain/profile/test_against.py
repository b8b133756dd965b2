"""The comparison compares like with like: the same sequences, and the same loss from the same weights."""

import pytest
import torch

from growth.state import fresh_state
from model.bert import BertForPreTraining
from model.config import BertConfig
from pretrain.cost.flops import training_flops
from pretrain.interop.huggingface import export_model
from pretrain.profile import table
from pretrain.profile.against import Row, Workload, packed_batches, padded_rows, useful_flops

CONFIG = BertConfig(
    layers=2, hidden=32, heads=2, ffn=64, vocab_size=128, max_positions=32, hidden_dropout=0, attention_dropout=0
)


@pytest.mark.parametrize(
    "workload", [Workload.varied(CONFIG, 32, 12), Workload.full(CONFIG, 32, 4)], ids=["varied", "full"]
)
def test_packed_and_padded_rows_have_the_same_loss(workload, tmp_path):
    transformers = pytest.importorskip("transformers")
    state = fresh_state(CONFIG, seed=3)
    weights = {name: record.weight for name, record in state.records.items()}
    ours = BertForPreTraining(CONFIG)
    ours.load_weights(weights.__getitem__)
    export_model(tmp_path, CONFIG, weights)
    theirs = transformers.BertForPreTraining.from_pretrained(tmp_path)

    num_masked = sum(len(where) for where in workload.sequences()[1])
    losses = [ours(b, 1 / num_masked, 0).mlm_loss.item() for b in packed_batches(workload, 2)]
    rows = padded_rows(workload)
    scores = theirs(**{key: rows[key] for key in ("input_ids", "attention_mask", "token_type_ids")}).prediction_logits
    expected = torch.nn.functional.cross_entropy(scores.flatten(0, 1), rows["labels"].flatten(), reduction="sum")
    assert sum(losses) == pytest.approx(expected.item(), rel=1e-5)


def test_packing_leaves_little_room():
    workload = Workload.varied(CONFIG.replace(max_positions=128), 128, 256)
    rows = packed_batches(workload, 1)[0]
    assert rows.num_tokens == sum(workload.lengths)
    assert rows.num_tokens / rows.ids.numel() > 0.92, "many sequences are longer than half a row and find no partner"


def test_useful_flops_are_those_of_full_rows_when_nothing_is_padded():
    workload = Workload.full(CONFIG, 32, 4)
    masked = sum(len(where) for where in workload.sequences()[1])
    assert useful_flops(workload) == training_flops(CONFIG, 4, 32, masked)


def test_a_row_holds_median_and_range():
    assert Row.over("x", 2.0, [1.0, 5.0, 3.0]) == Row("x", 2.0, 3.0, 1.0, 5.0)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_all_are_timed_in_the_machines_precision_but_transformers_out_of_the_box(monkeypatch, precision):
    """Where the hardware emulates bf16, one contender in it takes longer than all the others together."""
    used = []
    monkeypatch.setattr(table, "ours", lambda workload, precision, *more: used.append(("ours", precision)))
    monkeypatch.setattr(table, "bare_loop", lambda workload, precision: used.append(("bare", precision)))
    monkeypatch.setattr(table, "hugging_face", lambda workload, precision, **more: used.append(("theirs", precision)))

    def compare(contenders, precision, num_rounds):
        used.append(("limit", precision))
        return [dict.fromkeys([*contenders, "matmul"], 1.0)]

    monkeypatch.setattr(table, "compare", compare)
    assert len(table.rows_against_hugging_face(1, precision)) == 9
    out_of_the_box = [("theirs", "fp32")] * 2
    for one in out_of_the_box:
        used.remove(one)
    assert {chosen for _, chosen in used} == {precision}
    assert {name for name, _ in used} == {"ours", "bare", "theirs", "limit"}
