"""`python train.py --version`: the versions that a bug report needs, read without an import."""

import tomllib
from importlib import metadata

from recipes.config.groups import CONFIGS

LIBRARIES = ("torch", "pytorch-lightning")


def version_text() -> str:
    """Roux and the libraries that a run depends on most, on one line."""
    installed = [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    return ", ".join([f"roux {own_version()}", *installed])


def own_version() -> str:
    """The version of this clone, else of the installed package."""
    project = CONFIGS.parent / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    return metadata.version("roux")
