"""The verb `export`: a checkpoint becomes a folder that Hugging Face transformers opens.

config.json  model.safetensors  tokenizer.json  tokenizer_config.json  README.md (the model card)
tokenizer.model (SentencePiece's own, where the tokenizer is one)
"""

import json
import sys
from pathlib import Path

from tokenizers.processors import TemplateProcessing

from model.config import BertConfig
from model.errors import UserError
from pretrain.checkpoint import find_checkpoint, load_checkpoint
from pretrain.data import Vocabulary
from pretrain.interop.huggingface import export_model, is_exported
from pretrain.runs.folder import RunFolder
from pretrain.runs.history import History
from pretrain.runs.model_card import model_card
from pretrain.runs.outputs import check_complete_folder, complete_folder
from pretrain.use.trained import objective_of, open_vocabulary, say_if_causal

FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "README.md"}


def export(path: Path, output: Path | None = None, corpus: str | None = None) -> Path:
    """Exports a checkpoint, or the latest of a run, and returns the folder.

    `output` defaults to the folder `huggingface` in the run's. The tokenizer comes from the corpus, which is at
    `corpus` if it is not where training found it. Raises UserError when transformers has no model of this shape, or
    `output` holds something else.
    """
    checkpoint = find_checkpoint(path)
    run_folder = run_of(checkpoint)
    if output is None:
        if run_folder is None:
            raise UserError(f"{path} is not in a run's folder; say where to write by --output")
        output = run_folder / "huggingface"
    check_output(output)
    state, run = load_checkpoint(checkpoint)
    say_if_causal(run, checkpoint)
    _say_if_left_out(state.config)
    vocabulary = open_vocabulary(run, corpus, checkpoint)
    history = None
    if "progress" in run and run_folder is not None and RunFolder(run_folder).metrics.is_file():
        history = History.read(run_folder, run["progress"]["step"])
    with complete_folder(output) as folder:
        weights = {name: record.weight for name, record in state.records.items()}
        export_model(folder, state.config, weights, special_ids(vocabulary), objective_of(run))
        export_tokenizer(folder, vocabulary, state.config.max_positions, state.config.type_vocab)
        (folder / "README.md").write_text(model_card(state.config, run, vocabulary, history), "utf-8")
    return output


def _say_if_left_out(config: BertConfig) -> None:
    if config.uses("sentence_layer"):
        print(
            f"espalier: the sentence head reads layer {config.sentence_layer} of {config.layers}, and in transformers "
            "the last: the export leaves it out",
            file=sys.stderr,
        )


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that saved this checkpoint; None if it was copied or grown to somewhere else."""
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == "checkpoints" else None


def check_output(output: Path) -> None:
    """Raises UserError unless `output` can be written and what it holds, if anything, is an earlier export."""
    check_complete_folder("--output", output)
    held = {file.name for file in output.iterdir()} if output.is_dir() else set()
    if held and not (held <= FILES and is_exported(output)):
        raise UserError(f"{output} holds other files than a model exported by Espalier; choose another --output")


def special_ids(vocabulary: Vocabulary) -> dict[str, int]:
    """By their names in `config.json`."""
    special = vocabulary.special
    ids = {"pad": special.pad, "bos": special.cls, "eos": special.sep, "cls": special.cls, "sep": special.sep}
    return {f"{name}_token_id": index for name, index in (ids | {"mask": special.mask}).items()}


def export_tokenizer(output: Path, vocabulary: Vocabulary, max_length: int, num_types: int) -> None:
    """The model's own tokenizer; it frames texts as pretraining did: [CLS] first [SEP], and second [SEP] for pairs."""
    own, special = vocabulary.tokenizer, vocabulary.special
    tokenizer = own.for_transformers()
    pad, unk, cls, sep, mask = own.special_names
    second = int(num_types > 1)
    types = ["token_type_ids"] if num_types else []
    tokenizer.post_processor = TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:{second} {sep}:{second}",
        special_tokens=[(cls, special.cls), (sep, special.sep)],
    )
    if own.file_name != "tokenizer.json":
        (output / own.file_name).write_bytes(own.content)
    tokenizer.save(str(output / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # which takes tokenizer.json as it is
        "model_max_length": max_length,
        "model_input_names": ["input_ids", *types, "attention_mask"],
        **{"unk_token": unk, "cls_token": cls, "sep_token": sep, "pad_token": pad, "mask_token": mask},
    }
    (output / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
