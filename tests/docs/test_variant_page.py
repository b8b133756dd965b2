"""docs/adding-a-variant.md: the variant on the page, added to a copy of the tree, passes the tests that it names."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from model.fields import Flag
from tests.support.home import HOME

pytestmark = pytest.mark.timeout(900)  # many processes start, and machines differ

PAGE = (HOME / "docs" / "adding-a-variant.md").read_text(encoding="utf-8")
DECLARATION, LAYERS, REGISTRATION, EXAMPLE, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(RECIPE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
GENERIC = ("model/variants/test_variants.py", "model/variants/test_variant_flops.py", "model/parallel")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the code with the page's changes: a new folder, and lines in two files that are there."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in ("model", "growth", "pretrain", "ds_configs", "tests"):
        shutil.copytree(HOME / folder, tree / folder)
    shutil.copy(HOME / "pyproject.toml", tree)
    folder = tree / "model" / "variants" / "layer_scale"
    folder.mkdir()
    (folder / "__init__.py").write_text(DECLARATION, encoding="utf-8")
    (folder / "layers.py").write_text(LAYERS, encoding="utf-8")
    (tree / "tests" / "model" / "variants" / "test_layer_scale.py").write_text(TEST, encoding="utf-8")
    new_import, new_base = REGISTRATION.splitlines(keepends=True)
    add(tree / "model" / "config.py", before="from model.variants.light_attention", line=new_import)
    add(tree / "model" / "config.py", before="    WithMaskedUnits,\n", line=new_base)
    add(tree / "tests" / "support" / "variants.py", before='    "slimming":', line=EXAMPLE)
    return tree


def add(file, before: str, line: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{before!r} is not where a line is to be added to {file}"
    file.write_text(text.replace(before, line + before), encoding="utf-8")


def python(tree, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_passes_its_own_tests_and_those_of_every_variant(tree):
    files = [f"tests/{path}" for path in ("model/variants/test_layer_scale.py", *GENERIC)]
    output = python(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "scale", *files)
    passed = int(re.search(r"(\d+) passed", output).group(1))
    assert passed >= 2 + 6 + 1 + 1, output  # its own, of every variant, FLOPs, sequence parallelism


def test_the_recipe_on_the_page_is_a_shape(tree):
    model = yaml.safe_load(RECIPE)["model"]
    make = f"BertConfig.preset({model.pop('preset')!r}, **{model})"
    summary = python(tree, "-c", f"from model.config import BertConfig; print({make}.summary())")
    assert ", layer_scale True" in summary


def test_the_page_names_every_question_and_every_mark():
    for flag in Flag:
        assert f"`Flag.{flag.name}`" in PAGE, flag
    shape = (HOME / "model" / "shape.py").read_text(encoding="utf-8")
    questions = re.findall(r"    def (\w+)\((?:self|cls)", shape[shape.index("    def canonical") :])
    assert [name for name in questions if f"`{name}`" not in PAGE] == ["uses", "map_flops"], "these two are helpers"
