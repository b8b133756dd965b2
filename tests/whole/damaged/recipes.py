"""Recipes and DeepSpeed files."""

import json
from pathlib import Path

import yaml

from pretrain.recipe.library import read_values
from tests.support.damage import Draw, Kind, damage_bytes, damage_json, damage_tree

RECIPES = (
    *("demo", "staged-mini", "fast-mini", "multilevel-mini", "earlybert-mini", "swe-m-mini", "msg-mini"),
    *("core-mini", "light-attention-mini", "espalier-base", "compound-large", "stack-auto-mini", "bert2bert-mini"),
)
DEEPSPEED = sorted(Path("ds_configs").glob("*.json"))


def make_recipe(folder: Path) -> None:
    (folder / "recipe.yaml").write_text("{}")


def damage_recipe(draw: Draw, folder: Path) -> str:
    name, file = draw.choice(RECIPES), folder / "recipe.yaml"
    values, hows = read_values(name), []
    if draw.random() < 0.25:
        file.write_text(yaml.safe_dump(values), "utf-8")
        return f"{name}: {damage_bytes(draw, file)}"
    for _ in range(draw.randint(1, 3)):
        values, how = damage_tree(draw, values)
        hows.append(how)
    file.write_text(json.dumps(values), "utf-8")  # which is YAML
    return f"{name}: {', '.join(hows)}"


def damage_deepspeed(draw: Draw, folder: Path) -> str:
    original, file = draw.choice(DEEPSPEED), folder / "engine.json"
    file.write_bytes(original.read_bytes())
    how = damage_bytes(draw, file) if draw.random() < 0.2 else damage_json(draw, file, draw.randint(1, 2))
    (folder / "recipe.yaml").write_text(json.dumps({"extends": "staged-mini", "deepspeed": str(file)}))
    return f"{original.name}: {how}"


def plan(folder: Path) -> list[str]:
    return ["plan", str(folder / "recipe.yaml"), "--nproc", "2"]


KINDS = (
    Kind("recipes", make_recipe, damage_recipe, plan),
    Kind("DeepSpeed files", make_recipe, damage_deepspeed, plan),
)
