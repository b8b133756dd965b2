"""The shapes of teachers that stages of the same run keep."""

from collections.abc import Sequence
from dataclasses import replace

from model.config import BertConfig
from model.fields import Flag
from pretrain.recipe.run import ResolvedStage


def with_kept_teachers(stages: Sequence[ResolvedStage]) -> tuple[ResolvedStage, ...]:
    """The stages, each with the shape of its teacher where an earlier one keeps that."""
    kept: dict[str, BertConfig] = {}
    found = []
    for stage in stages:
        if stage.align and stage.align.teacher in kept:
            stage = replace(stage, align=replace(stage.align, config=in_evaluation(kept[stage.align.teacher])))
        if stage.keep:
            kept[stage.keep] = stage.config
        found.append(stage)
    return tuple(found)


def in_evaluation(config: BertConfig) -> BertConfig:
    """The shape without what only training does (layers left out or frozen, tokens dropped). Its parameters stay."""
    fields, free = type(config).model_fields, config.fields_with(Flag.FREE)
    used = [name for name in config.fields_with(Flag.NOT_IN_TARGET) if name in free and config.uses(name)]
    return config.replace(**{name: fields[name].get_default() for name in used}) if used else config
