"""A small corpus, and a run's folder as training leaves it, without any training."""

import json
import random
from pathlib import Path

import numpy as np
import torch
import yaml

from growth.state import Record, TrainingState
from model.config import BertConfig
from model.initialize import initial_weight
from model.parameters import parameter_table
from pretrain.checkpoint.files import write_index, write_part
from pretrain.checkpoint.parts import Parts
from pretrain.checkpoint.progress import Progress
from pretrain.data import Corpus, prepare
from pretrain.data.text.prepare import PrepareOptions
from pretrain.recipe import load_recipe

WORDS = [
    "the",
    "a",
    "old",
    "green",
    "river",
    "house",
    "tree",
    "cat",
    "dog",
    "sings",
    "runs",
    "under",
    "near",
    "because",
]


def make_corpus(folder: Path, tokenizer: str = "wordpiece", vocab_size: int = 150, vocab: Path | None = None) -> Corpus:
    draw = random.Random(0)
    text = folder.with_suffix(".txt")
    text.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=12)).capitalize() + "." for _ in range(200)))
    size = {} if vocab else {"vocab_size": vocab_size}
    options = dict(tokenizer=tokenizer, vocab=vocab, licence="CC0", num_workers=1, **size)
    prepare(PrepareOptions((str(text),), folder, **options))
    return Corpus.open(folder)


def generic_weights(config: BertConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Fresh weights plus noise, so that no bias is 0 and no norm weight 1."""
    weights = {}
    for name in parameter_table(config):
        fresh = initial_weight(config, name, seed)
        noise = np.random.default_rng([seed, *name.encode()]).standard_normal(fresh.shape)
        weights[name] = fresh + 0.05 * torch.from_numpy(np.asarray(noise)).float()
    return weights


def make_run(folder: Path, corpus: Corpus, objective: str = "mlm", **shape) -> BertConfig:
    """A finished run of two stages with one change of shape, and its checkpoint at step 40, by the last objective."""
    fields = dict(layers=2, hidden=32, heads=4, ffn=48, max_positions=64, hidden_dropout=0.0, attention_dropout=0.0)
    config = BertConfig(**{**fields, "vocab_size": corpus.vocab_size, **shape})
    recipe = load_recipe("demo", ["name=two-stages", f"data.corpus={corpus.directory}"])
    recipe_json = json.loads(recipe.model_dump_json(by_alias=True))
    weights = generic_weights(config)
    records = {name: Record.fresh(weight) for name, weight in weights.items()}
    state = TrainingState(config, dict.fromkeys(records, 0), dict.fromkeys(records, 40), records)
    run = {
        "progress": Progress(step=40, num_tokens=40_960, flops=4e9, train_seconds=20.0, device_seconds=20.0).to_json(),
        "recipe": recipe_json,
        "corpus": str(corpus.directory.resolve()),
        "tokenizer": corpus.tokenizer_hash,
        "sequence": 32,
        "objective": objective,
        "hooks": {},
    }
    checkpoint = folder / "checkpoints" / "step-00000040"
    checkpoint.mkdir(parents=True)
    parts = Parts.of(state)
    write_index(checkpoint, parts, run, {0: write_part(checkpoint, 0, parts)})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe_json, sort_keys=False))
    (folder / "checkpoints" / "latest").write_text("step-00000040\n")
    lines = "".join(json.dumps(line) + "\n" for line in history_lines())
    (folder / "metrics.jsonl").write_text(lines)
    return config


def history_lines(num_steps: int = 40, growth_step: int = 20) -> list[dict]:
    """What a run of two stages writes; the loss falls from 7 and jumps by 0.5 where the shape changes."""
    lines: list[dict] = [validation(0, "first", 7.0), stage(0, "first", "1x32 heads 4 ffn 48")]
    for step in range(1, num_steps + 1):
        grown = step > growth_step
        loss = 7.0 - 0.1 * step + 0.5 * grown
        lines.append(
            {
                "step": step, "stage": "second" if grown else "first", "loss": loss, "mlm_loss": loss,
                "mlm_accuracy": 0.01 * step, "lr": 1e-3 * step / num_steps, "grad_norm": 1.0 + 0.01 * step,
                "tokens": 1024 * step, "flops": 1e8 * step, "seconds": 0.5 * step, "tokens_per_second": 2048.0,
            }
        )  # fmt: skip
        if step == growth_step:
            event = {"operator": "stack", "step": step, "stage": "second", "loss_before": 5.0, "loss_after": 5.5}
            lines.append({"event": "growth", **event, "seconds": 0.1, "moments": "copy", "parts": {"read": 0.05}})
            lines.append(stage(step, "second", "2x32 heads 4 ffn 48"))
    lines.append(validation(num_steps, "second", 3.6))
    return lines


def stage(step: int, name: str, shape: str) -> dict:
    return {"event": "stage", "step": step, "stage": name, "shape": shape}


def validation(step: int, name: str, loss: float) -> dict:
    values = {"valid_loss": loss, "valid_accuracy": 0.01 * step}
    return {"event": "validation", "step": step, "stage": name, "tokens": 1024 * step, **values}
