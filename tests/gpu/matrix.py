"""Engines of every kind, on whatever device there is: steps, a change of shape, a checkpoint, and on from it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from growth.operators import make_operator, shape_change
from growth.state import fresh_state
from model.bert import BertForPreTraining
from model.parameters import parameter_table
from pretrain.checkpoint import CheckpointStore, find_checkpoint, load_checkpoint
from pretrain.engine.distributed import computes_on_gpu, device
from pretrain.engine.exchange import read_state
from pretrain.engine.move import move, start_engine
from pretrain.engine.zero import destroy
from pretrain.optim.groups import GroupRules, parameter_groups
from pretrain.optim.lamb.step import Lamb
from pretrain.optim.lans.step import Lans
from tests.support.harness import CONFIG, GLOBAL_ROWS, MASKED_PER_ROW, global_batch, settings, start, train

LR = 2e-3


@dataclass(frozen=True)
class Case:
    stage: int
    precision: str = "bf16"
    offloads: bool = False
    optimizer: Any = None
    """None: AdamW."""
    recompute: bool = False

    def settings(self) -> Any:
        zero = {"offload_optimizer": {"device": "cpu", "pin_memory": computes_on_gpu()}} if self.offloads else {}
        made = replace(settings(1, self.stage, self.precision, 2, **zero), recompute=self.recompute)
        return replace(made, make_optimizer=self.optimizer) if self.optimizer else made


CASES = {
    **{f"ZeRO {stage}, fp32": Case(stage, "fp32") for stage in range(4)},
    **{f"ZeRO {stage}, bf16": Case(stage) for stage in range(4)},
    **{f"ZeRO {stage}, offloaded": Case(stage, offloads=True) for stage in (2, 3)},
    **{f"ZeRO {stage}, fp16": Case(stage, "fp16") for stage in (1, 3)},
    "ZeRO 1, recomputed": Case(1, recompute=True),
    "ZeRO 2, LAMB": Case(2, optimizer=Lamb),
    "ZeRO 3, LANS": Case(3, optimizer=Lans),
}


def run_case(name: str) -> dict[str, Any]:
    """The losses of 3 steps, of 3 more after a change of shape, and whether a run resumed there takes the same two."""
    case, operators = CASES[name], [make_operator("stack", {}), make_operator("widen", {})]
    made = case.settings()
    engine = start(CONFIG, made)
    found = train(engine, 0, 3, LR)
    engine, _ = move(engine, made, lambda state: shape_change(CONFIG, operators, {"layers": 4, "ffn": 80}))
    found += train(engine, 3, 3, LR)
    with TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder))
        store.save(6, read_state(engine), {})
        store.flush()
        state, _ = load_checkpoint(find_checkpoint(Path(folder)))
    went_on = train(engine, 6, 2, LR)
    destroy(engine)
    engine = start_engine(state, made)
    resumed = train(engine, 6, 2, LR)
    destroy(engine)
    return {"case": name, "losses": found, "resumed alike": resumed == went_on, "device": str(device())}


def reference() -> list[float]:
    """The losses of the first 3 steps in fp32 on the CPU, in a plain loop."""
    model = BertForPreTraining(CONFIG).train()
    state = fresh_state(CONFIG, seed=1)
    model.load_weights(lambda name: state.records[name].weight)
    steps = dict.fromkeys(parameter_table(CONFIG), 0)
    optimizer = settings(1, 1).make_optimizer(parameter_groups(model, steps, GroupRules()))
    found = []
    for step in range(3):
        for group in optimizer.param_groups:
            group["lr"] = LR
        output = model(global_batch(CONFIG, step), 1 / (GLOBAL_ROWS * MASKED_PER_ROW), 1 / GLOBAL_ROWS)
        output.loss.backward()
        found.append(output.loss.item())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return found


def rows(*names: str) -> Iterator[dict[str, Any]]:
    """For the session: one case after the other."""
    expected = reference()
    for name in names:
        try:
            row = run_case(name)
        except Exception as error:  # the next case may well work
            row = {"case": name, "error": f"{type(error).__name__}: {error}"[:300]}
        else:
            losses = row.pop("losses")
            row["off the CPU in fp32"] = max(abs(a - b) for a, b in zip(losses, expected, strict=False))
        yield row
