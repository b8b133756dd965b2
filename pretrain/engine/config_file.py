"""DeepSpeed's JSON files, which own ZeRO, offload and communication, and nothing that the recipe owns."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import UserError, nearest

DEFAULT_BUCKET = 500_000_000
"""Elements in a bucket of gradients where the file does not say: DeepSpeed's default."""

PROJECT = Path(__file__).parent.parent.parent

OWNED_BY_RECIPE = {
    "train_batch_size": "batch.global",
    "train_micro_batch_size_per_gpu": "batch.micro",
    "gradient_accumulation_steps": "batch (accumulation follows from it)",
    "gradient_clipping": "optimizer.grad_clip",
    "fp16.enabled": "precision",
    "bf16.enabled": "precision",
    "optimizer": "optimizer",
    "scheduler": "schedule",
}
"""DeepSpeed's keys that may only be left out or "auto", and where the recipe sets them."""


KNOWN_KEYS = (
    *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"),
    *("managed_gradient_accumulation", "optimizer", "scheduler", "fp16", "bf16", "bfloat16", "torch_autocast"),
    *("data_types", "communication_data_type", "seq_parallel_communication_data_type", "prescale_gradients"),
    *("gradient_predivide_factor", "gradient_allreduce_op", "sparse_gradients", "disable_allgather"),
    *("zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "disable_python_gc"),
    *("activation_checkpointing", "steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state"),
    *("log_level", "timers", "comms_logger", "flops_profiler", "tensorboard", "wandb", "csv_monitor", "comet"),
    *("autotuning", "aio", "elasticity", "checkpoint", "datastates_ckpt", "compile", "data_efficiency"),
    *("curriculum_learning", "progressive_layer_drop", "eigenvalue", "compression_training", "sparse_attention"),
    *("pipeline", "hybrid_engine", "dataloader_drop_last", "use_data_before_expert_parallelism", "vocabulary_size"),
    *("tensor_parallel", "sequence_parallel_size", "data_parallel_size", "mesh_device", "weight_quantization"),
    *("expert_parallel", "amp"),
)
"""The keys at the top of DeepSpeed's configuration: DeepSpeed 0.19 ignores any other without a word."""


class Usual(BaseModel):
    """What DeepSpeed certainly accepts, so that it need not be asked: that would take seconds, to import it."""

    model_config = ConfigDict(extra="forbid", strict=True)


class UsualOffload(Usual):
    device: Literal["cpu", "none"] = "none"
    pin_memory: bool = False


class UsualZero(Usual):
    """The keys of `zero_optimization` that most files have."""

    stage: Literal[0, 1, 2, 3] = 0
    contiguous_gradients: bool = True
    reduce_scatter: bool = True
    overlap_comm: bool = False
    round_robin_gradients: bool = False
    reduce_bucket_size: Annotated[int, Field(ge=1)] = DEFAULT_BUCKET
    allgather_bucket_size: Annotated[int, Field(ge=1)] = DEFAULT_BUCKET
    sub_group_size: Annotated[int, Field(ge=1)] = 1
    stage3_prefetch_bucket_size: Annotated[int, Field(ge=0)] = 0
    stage3_param_persistence_threshold: Annotated[int, Field(ge=0)] = 0
    stage3_max_live_parameters: Annotated[int, Field(ge=0)] = 0
    stage3_max_reuse_distance: Annotated[int, Field(ge=0)] = 0
    offload_optimizer: UsualOffload = UsualOffload()


def load_engine_file(path: str) -> dict[str, Any]:
    """Reads a DeepSpeed JSON, from the working directory or the project. UserError names the file and the key."""
    file = next((file for file in (Path(path), PROJECT / path) if file.is_file()), None)
    if file is None:
        raise UserError(f"deepspeed: {path} does not exist; the files that come with Espalier are ds_configs/*.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno} is not JSON: {error.msg}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no DeepSpeed configuration: it has to be a JSON object")

    for key in config:
        if key not in KNOWN_KEYS:
            hint = nearest(key, KNOWN_KEYS)
            raise UserError(f"{path} sets {key}, which DeepSpeed does not know{hint}; correct or remove it")
    for key, owner in OWNED_BY_RECIPE.items():
        value = value_at(config, key)
        if value not in (None, "auto"):
            shown = "a section" if isinstance(value, dict) else json.dumps(value)
            raise UserError(
                f'{path} sets {key} to {shown}, but the recipe owns it ({owner}); make it "auto" or remove it'
            )
    config = _said(config)
    stage = value_at(config, "zero_optimization.stage")
    if stage not in (0, 1, 2, 3) or isinstance(stage, bool):
        raise UserError(f"{path} sets zero_optimization.stage to {json.dumps(stage)}; choose 0, 1, 2 or 3")
    bucket = value_at(config, "zero_optimization.reduce_bucket_size")
    if bucket is not None and (not isinstance(bucket, int | float) or isinstance(bucket, bool) or not bucket >= 1):
        raise UserError(
            f"{path} sets zero_optimization.reduce_bucket_size to {json.dumps(bucket)}; give a number of elements"
        )
    _check_sections(path, config)
    return config


def _check_sections(path: str, config: dict[str, Any]) -> None:
    """What DeepSpeed would refuse when an engine is built, minutes later and in sixty lines."""
    if _is_usual(config):
        return
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # takes seconds to import

    for name, schema in (
        ("zero_optimization", DeepSpeedZeroConfig),
        ("fp16", DeepSpeedFP16Config),
        ("bf16", DeepSpeedBF16Config),
    ):
        if not isinstance(section := config.get(name, {}), dict):
            raise UserError(f"{path} sets {name} to {json.dumps(section)}; make it a section, or remove it")
        try:
            schema(**section)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join([name, *map(str, fault["loc"])])
            if fault["type"] == "extra_forbidden":
                known = [field.alias or name for name, field in schema.model_fields.items()]
                hint = nearest(str(fault["loc"][-1]), known)
                raise UserError(
                    f"{path} sets {key}, which DeepSpeed does not know{hint}; correct or remove it"
                ) from None
            raise UserError(
                f'{path} sets {key} to {fault["input"]!r}: {fault["msg"]}; correct it, or leave it "auto"'
            ) from None


def _is_usual(config: dict[str, Any]) -> bool:
    try:
        UsualZero.model_validate(config["zero_optimization"])
    except ValidationError:
        return False
    return not config.get("fp16") and not config.get("bf16")


def _said(config: dict[str, Any]) -> dict[str, Any]:
    """Without what is left open, as null or "auto": DeepSpeed's defaults and the recipe fill that in."""
    return {
        key: _said(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if value not in (None, "auto")
    }


def offloads_optimizer(config: dict[str, Any]) -> bool:
    return value_at(config, "zero_optimization.offload_optimizer.device") not in (None, "none")


def overlaps_messages(config: Mapping[str, Any], on_gpu: bool, data_parallel: int) -> bool:
    """Whether gradients are reduced during the backward pass. By default they are if there are several GPUs; on a CPU,
    or on one rank, it would only cost a second bucket."""
    said = value_at(config, "zero_optimization.overlap_comm")
    return on_gpu and data_parallel > 1 if said is None else said


def value_at(config: Any, key: str) -> Any:
    """The value under a dotted key; None where there is none."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config
