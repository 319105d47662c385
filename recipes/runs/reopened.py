"""A finished run of this command, for a program that needs its network and its data."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import OmegaConf

from datamodules.datamodule import StreamDataModule
from foundation.errors import UserError
from recipes.checkpointing.files import load_checkpoint
from recipes.engine.recipe import Recipe
from recipes.runs.provenance import restored_files
from recipes.runs.run import build_recipe, read_data
from recipes.setup.assemble import assemble
from recipes.setup.changes import parsed
from recipes.setup.length import in_steps
from recipes.setup.spec import RunSpec, with_values


@dataclass(frozen=True)
class Reopened:
    """recipe: the module of the run with its last weights, in evaluation mode. data: set up. files:
    a folder that lives as long as this."""

    recipe: Recipe
    data: StreamDataModule
    config: dict[str, Any]
    files: TemporaryDirectory[str]


def reopen(checkpoint: str) -> Reopened:
    """The run of a checkpoint that an earlier stage left, on the device that it trained on. Raises
    `UserError` for any other file."""
    content = load_checkpoint(checkpoint)
    origin = content.get("provenance")
    if origin is None:
        raise UserError(f"program: '{checkpoint}'", "has no config", "expected one of this version")
    tree = parsed(origin["config"], f"program: '{checkpoint}'")
    config = OmegaConf.create(tree)
    folder = TemporaryDirectory()
    # its weights, and what its structure follows from, are in the checkpoint
    files = restored_files(config, origin.get("files") or {}, Path(folder.name))
    config = with_values(config, {**files, "network.checkpoint": None})
    assembly = assemble(RunSpec(config))
    read_data(assembly)
    recipe = build_recipe(in_steps(assembly))
    recipe.load_state_dict(content["state_dict"])
    if recipe.teacher and recipe.teacher.moments:
        recipe.teacher.moments.settle()
    recipe.requires_grad_(False)
    return Reopened(recipe.to(device_of(tree)).eval(), assembly.datamodule, tree, folder)


def device_of(config: dict[str, Any]) -> torch.device:
    """An accelerator, unless the run was kept from it."""
    on_cpu = config["trainer"]["accelerator"] == "cpu" or not torch.cuda.is_available()
    return torch.device("cpu" if on_cpu else "cuda")
