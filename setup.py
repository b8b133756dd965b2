"""Where the wheel puts the code: everything inside one package, `espalier`. All else is in pyproject.toml.

pretrain/launch/installed/__init__.py says why.
"""

from setuptools import find_packages, setup

packages = find_packages(include=["model*", "growth*", "pretrain*"], exclude=["pretrain.launch.installed"])
setup(
    packages=["espalier", "espalier.ds_configs", *(f"espalier.{package}" for package in packages)],
    package_dir={
        "espalier": "pretrain/launch/installed",
        **{f"espalier.{folder}": folder for folder in ("model", "growth", "pretrain", "ds_configs")},
    },
    package_data={
        "espalier.ds_configs": ["*.json"],
        "espalier.pretrain": ["machines/*.yaml", "recipe/shipped/**/*.yaml", "runs/templates/*"],
    },
)
