"""Builds stand-ins for NVIDIA's libraries, which a torch built for CUDA loads in their place: see `stand_ins/`."""

import re
import subprocess
from pathlib import Path

SOURCES = {
    "libcudart": ("runtime.cpp", "memory.cpp", "streams.cpp"),
    "libnccl": ("collectives.cpp",),
    "libcublasLt": ("products.cpp",),
    "libcuda": ("driver.cpp",),
}
"""Of the other libraries every function returns 0: success."""

PREFIXES = {
    "nccl": "libnccl", "cuFile": "libcufile", "cusparseLt": "libcusparseLt", "curand": "libcurand",
    "nvshmem": "libnvshmem_host", "cu": "libcuda",
}  # fmt: skip
"""Of functions without a version, the first that fits. The version of all others is the name of their library."""

STAND_INS = Path(__file__).parent / "stand_ins"


def build(site_packages: Path, folder: Path) -> list[Path]:
    """One library in `folder` for each of NVIDIA's that the torch in `site_packages` needs."""
    wanted = functions(site_packages / "torch" / "lib")
    return [_compile(name, wanted[name], folder, headers(site_packages)) for name in sorted(wanted)]


def functions(libraries: Path) -> dict[str, dict[str, str]]:
    """{"libcudart.so.13": {function that torch calls: its version, or ""}}."""
    files = sorted(libraries.glob("lib*.so"))
    needed = {
        name for file in files for name in re.findall(r"NEEDED.*\[(lib(?:cu|nv|nccl)[^]]*)\]", _readelf("-d", file))
    }
    by_prefix = {
        prefix: name for prefix, library in PREFIXES.items() for name in needed if name.startswith(f"{library}.")
    }
    wanted: dict[str, dict[str, str]] = {name: {} for name in needed}
    for file in files:
        for function, version in re.findall(r" UND ((?:_*cu|nccl|nv)\w+)(?:@+(\S+))?", _readelf("--dyn-syms", file)):
            prefix = next(filter(function.startswith, by_prefix), "")
            name = version if version in needed else by_prefix.get(prefix)
            if name:
                wanted[name][function] = version
    return wanted


def headers(site_packages: Path) -> list[Path]:
    """Folders with the headers of CUDA and NCCL: of NVIDIA's wheels, and of a toolkit, if there is one."""
    return [*site_packages.glob("nvidia/*/include"), *Path("/usr/local").glob("cuda/include")]


def _compile(name: str, wanted: dict[str, str], folder: Path, include: list[Path]) -> Path:
    library, rest = folder / name, folder / f"{name}.cpp"
    sources = [STAND_INS / source for source in SOURCES.get(name.partition(".")[0], ())]
    written = {function for source in sources for function in re.findall(r"\b(\w+)\(", source.read_text("utf-8"))}
    only_succeed = sorted(wanted.keys() - written)
    rest.write_text("".join(f'extern "C" int {function}(...) {{ return 0; }}\n' for function in only_succeed))
    options = ["-shared", "-fPIC", "-O1", "-w", "-std=c++17", f"-Wl,-soname,{name}", *(f"-I{path}" for path in include)]
    version = next(filter(None, wanted.values()), "")
    if version:
        script = folder / f"{name}.map"
        script.write_text(f"{version} {{ global: *; }};\n")
        options.append(f"-Wl,--version-script={script}")
    subprocess.run(["g++", *options, "-o", str(library), str(rest), *map(str, sources)], check=True)
    return library


def _readelf(what: str, file: Path) -> str:
    return subprocess.run(["readelf", "-W", what, str(file)], capture_output=True, text=True, check=True).stdout
