"""torch's compiler stays out, and what keeps it out gives way once something else has loaded it."""

import os
import subprocess
import sys
from types import SimpleNamespace

import torch

from pretrain.engine.without_compiler import CACHE, call_directly
from tests.support.tiny import write_recipe

HEAVY = ("torch._dynamo", "torch._inductor", "torch.onnx", "networkx", "setuptools", "megatron")
RUN = """
import os, sys
from pretrain.launch.rank import PROCESS
os.environ[PROCESS] = str(os.getpid())
from pretrain.__main__ import main
assert main(sys.argv[1:]) == 0
import torch
assert torch.compile.__name__ == "compile", "it has not come back"
print("loaded:", *(name for name in {heavy} if name in sys.modules))
"""


def test_a_plain_run_loads_no_compiler(corpus, tmp_path):
    recipe = write_recipe(tmp_path / "tiny.yaml", corpus)
    stages = [f"stages.{name}.steps=1" for name in ("tied", "untied", "deep")]
    words = [word for value in (*stages, "schedule.warmup=1") for word in ("--set", value)]
    words = ["train", str(recipe), "--runs", str(tmp_path / "runs"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(heavy=HEAVY), *words], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_once_the_compiler_is_loaded_torch_has_its_way(monkeypatch):
    def function(number: int) -> int:
        return number + 1

    method = torch._disable_dynamo(function)
    call_directly(method)
    with monkeypatch.context() as changes:
        changes.delitem(sys.modules, "torch._dynamo", raising=False)
        assert method(1) == 2
        assert "torch._dynamo" not in sys.modules
    kept_out = getattr(function, CACHE)
    if "torch._dynamo" not in sys.modules:  # to load it takes as long as all these tests
        compiler = SimpleNamespace(disable=lambda function, recursive, wrapping: lambda number: function(number))
        monkeypatch.setitem(sys.modules, "torch._dynamo", compiler)
    assert method(2) == 3
    assert getattr(function, CACHE) is not kept_out
