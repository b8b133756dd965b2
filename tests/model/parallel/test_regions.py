"""Tensor parallelism leaves torch's compiler alone, which takes three times as long to import."""

import subprocess
import sys

from tests.support.home import HOME

CODE = """
import sys, torch
compiler = torch.compile
import model.parallel.regions as regions
from megatron.core import jit
from model.dropout import dropout
from model.parallel.tensor import TensorParallel
TensorParallel(1, 2).draw_own(dropout, torch.ones(8), 0.5)
print(torch.compile is compiler, "torch._dynamo" in sys.modules, jit.jit_fuser is regions._as_they_are)
"""


def test_the_import_loads_no_compiler_and_leaves_it_as_it_was():
    """The last of the three: megatron-core takes torch.compile as it is imported. Once it does not, no workaround is
    needed."""
    done = subprocess.run([sys.executable, "-c", CODE], cwd=HOME, capture_output=True, text=True)
    assert done.stdout == "True False True\n", done.stdout + done.stderr
