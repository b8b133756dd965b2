"""The README.md of an exported model: what it is, what it was trained on, how, and how well it does."""

import re
from html import escape
from pathlib import Path
from typing import Any

import yaml

from model.config import BertConfig
from pretrain.data import Corpus, Vocabulary
from pretrain.interop.huggingface import plain_shape
from pretrain.runs.history import History

Rows = list[tuple[Any, ...]]


def model_card(config: BertConfig, run: dict[str, Any], vocabulary: Vocabulary, history: History | None) -> str:
    """Markdown. `run` is what the checkpoint says of its run; `history` may be missing, then the curves are."""
    sections = [
        FRONT_MATTER,
        _title(config, run),
        USAGE if not _has_characters(vocabulary) else "",
        _shape(config),
        _data(vocabulary, run["recipe"]) if isinstance(vocabulary, Corpus) and "recipe" in run else "",
        *([_losses(history), _stages(history), _growth(history)] if history else []),
        _recipe(run["recipe"]) if "recipe" in run else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


FRONT_MATTER = """---
library_name: transformers
pipeline_tag: fill-mask
tags: [bert, masked-language-modeling, espalier]
---"""

USAGE = """```python
from transformers import pipeline

pipeline("fill-mask", "path/of/this/folder")("The capital of France is [MASK].")
```"""


def _title(config: BertConfig, run: dict[str, Any]) -> str:
    shape = f"{config.summary()}, {config.norm}-LN"
    if "recipe" not in run:  # grown from a model of transformers
        source, operators = _literal(Path(run["grown"]["from"]).name), ", ".join(run["grown"]["operators"])
        return f"# {source}, grown\n\nThe BERT {source}, grown with Espalier ({operators}): {shape}."
    progress = run["progress"]
    return (
        f"# {run['recipe']['name']}\n\nA BERT pretrained with Espalier: {shape}, "
        f"{progress['step']:,} steps, {progress['num_tokens']:,} tokens, {progress['flops']:.3g} FLOPs."
    )


def _recipe(recipe: dict[str, Any]) -> str:
    text = yaml.safe_dump(_published(recipe), sort_keys=False)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(longest + 1, 3)  # nothing in the recipe ends the block
    return f"## Recipe\n\n{fence}yaml\n{text}{fence}"


def _published(value: Any) -> Any:
    """Without keys that are not set. Where a file lies on the machine that trained is nobody's business: only its name
    stays."""
    if isinstance(value, dict):
        published = {key: _published(inner) for key, inner in value.items() if inner is not None}
        return {key: inner for key, inner in published.items() if inner != {} or value[key] == {}}
    if isinstance(value, list):
        return [_published(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _has_characters(vocabulary: Vocabulary) -> bool:
    """A [MASK] is then one letter, which the pipeline's users do not expect."""
    return vocabulary.tokenizer.spells


def _shape(config: BertConfig) -> str:
    rows: Rows = [
        (name.replace("_", " "), getattr(config, name))
        for name in (
            "layers",
            "hidden",
            "heads",
            "head_dim",
            "ffn",
            "vocab_size",
            "max_positions",
            "norm",
            "activation",
        )
    ]
    if config.sharing is not None:
        rows.append(("sharing", f"{config.num_blocks} blocks; exported as layers of their own, equal to each other"))
    text = "## Shape\n\n" + _table(("", ""), rows)
    plain = plain_shape(config)
    if (config.heads, config.ffn) != (plain.heads, plain.ffn):
        text += (
            f"\n\nLayers are padded with zeros to {plain.heads} heads and {plain.ffn} feed-forward units, "
            "which changes nothing that the model computes, and stays zero under fine-tuning."
        )
    return text


def _data(corpus: Corpus, recipe: dict[str, Any]) -> str:
    rows: Rows = []
    for manifest, weight in zip(corpus.manifests, corpus.weights.values(), strict=True):
        share = f", read {weight:g} times an epoch" if len(corpus.weights) > 1 else ""
        rows += [
            ("sources", ", ".join(_published(manifest["source"]["names"])) + share),
            ("licence", manifest["source"]["licence"] or "not stated"),
            *((f"{split} tokens", f"{held['num_tokens']:,}") for split, held in manifest["splits"].items()),
        ]
    rows.append(("masked", _masked(recipe)))
    return "## Data\n\n" + _table(("", ""), rows)


def _masked(recipe: dict[str, Any]) -> str:
    """Stage by stage, as far as they differ."""
    objective, rate, told = "mlm", recipe["data"]["mask_rate"], []
    for stage in recipe["stages"]:
        masking = stage.get("masking", {})
        objective, first = stage.get("objective") or objective, masking.get("rate") or rate
        rate = masking.get("end") or first
        share = f"{first:.0%}" if first == rate else f"{first:.0%} to {rate:.0%}"
        told.append("none (clm)" if objective == "clm" else f"{share} of the tokens")
    return ", then ".join(dict.fromkeys(told))


def _losses(history: History) -> str:
    validations = history.events("validation")
    shown = validations[:: max(len(validations) // 10, 1)]
    if validations and shown[-1] is not validations[-1]:
        shown.append(validations[-1])
    rows: Rows = [
        (f"{line['step']:,}", f"{line['tokens']:,}", f"{line['valid_loss']:.4f}", f"{line['valid_accuracy']:.1%}")
        for line in shown
    ]
    return "## Masked-token loss and accuracy on held-out text\n\n" + _table(
        ("step", "tokens", "loss (nats)", "accuracy"), rows
    )


def _stages(history: History) -> str:
    rows: Rows = [(line["stage"], f"{line['step']:,}", line["shape"]) for line in history.stages]
    return "## Stages\n\n" + _table(("stage", "from step", "shape"), rows)


def _growth(history: History) -> str:
    rows: Rows = [
        (line["operator"], f"{line['step']:,}", f"{line['loss_before']:.4f}", f"{line['loss_after']:.4f}")
        for line in history.events("growth")
    ]
    head = ("operator", "step", "loss before", "loss after")
    return "## Changes of shape\n\n" + _table(head, rows) if rows else ""


def _table(head: tuple[str, ...], rows: Rows) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_literal(cell) for cell in line) + " |" for line in lines)


def _literal(value: Any) -> str:
    """Text that Markdown shows as it is: one line, no HTML, no links, no cells of its own."""
    text = escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*\[\]|])", r"\\\1", text)
