"""Environment variables that Espalier's processes want. What the user has set always wins."""

import os
import stat
import sys
import tempfile
import warnings
from pathlib import Path

from pretrain.launch.gpus import count_gpus

HOME = Path(__file__).resolve().parents[2]
"""The folder that holds model, growth, pretrain and ds_configs."""

added: dict[str, str] = {}
"""What `set_environment` has set in this process. A SLURM job leaves these out: each node sets its own."""


def set_environment() -> None:
    """Sets what is not set yet, for this process and its children. Call it before importing torch."""
    for name, value in _defaults().items():
        if name not in os.environ:
            os.environ[name] = added[name] = value
    _put_first("PATH", str(Path(sys.executable).parent))
    _put_first("PYTHONPATH", str(HOME))
    # PYTHONWARNINGS, for this process, which has started already.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Transformer Engine and Apex", category=UserWarning)


def _defaults() -> dict[str, str]:
    caches = _caches()
    defaults = {
        # A thread that spins at a barrier takes the core another rank needs: steps become several times slower.
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "TORCH_EXTENSIONS_DIR": str(caches / "torch_extensions"),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Advice to the authors of libraries, which every rank would print once.
        "PYTHONWARNINGS": "ignore::FutureWarning,ignore:Transformer Engine and Apex:UserWarning",
        # A folder called `model` where the user happens to be must not replace ours (Python 3.11 and newer).
        "PYTHONSAFEPATH": "1",
    }
    if "SLURM_JOB_ID" in os.environ:
        defaults |= {"TRITON_CACHE_DIR": str(caches / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor")}
    if count_gpus() == 0:
        defaults["DS_ACCELERATOR"] = "cpu"
    else:  # with NCCL, gloo sums some numbers on the hosts: a rank connects to those that it meets there, not to all
        defaults["TORCH_GLOO_LAZY_INIT"] = "1"
    return defaults


def _caches() -> Path:
    """Where compiled operators go. In a SLURM job to the node's own disk: hundreds of ranks that lock files on a
    shared one stall."""
    if "SLURM_JOB_ID" in os.environ:
        return private_folder(Path(os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir(), f"espalier-{os.getuid()}"))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "espalier"


def private_folder(path: Path) -> Path:
    """`path`, made if need be, where it is a folder of this user's that nobody else may enter; else a new one.

    Compiled code is loaded from it, and in /tmp anybody may have made a folder of that name first.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()  # of a link itself, which could lead anywhere
    except OSError:
        return Path(tempfile.mkdtemp(prefix="espalier-"))
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return path if is_ours else Path(tempfile.mkdtemp(prefix="espalier-"))


def _put_first(variable: str, folder: str) -> None:
    folders = [other for other in os.environ.get(variable, "").split(os.pathsep) if other and other != folder]
    os.environ[variable] = os.pathsep.join([folder, *folders])
