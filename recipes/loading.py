"""A finished run, ready for use: found, read without running code from it, built again without its data.

    model = recipes.load("outputs/fixmatch/2026-01-31_12-00-00")
    model.predict("picture.png")

A checkpoint says what it comes from (`provenance`): its config, what must be known of the data, the tokenizer, the
architecture of the encoder. From these the very recipe of the run is built, so that what is predicted is what the run
reported: the averaged network where one is evaluated, inputs and logits changed as the methods change them.
"""

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from datamodules.errors import UserError, nearest
from datamodules.facts import Facts
from recipes.annotations import find_target
from recipes.assembly import assemble
from recipes.paths import load_checkpoint
from recipes.predictor import Predictor
from recipes.run import build_recipe
from recipes.validation import first_line, plain, targets

Which = Literal["last", "best"]
OURS = ("recipes", "methods", "datamodules")
KEPT = ("config", "facts", "input_size", "encoder", "vocab_size")


def load(run: str | Path, which: Which = "last", device: str | torch.device = "cpu", trust: bool = False) -> Predictor:
    """The model of a run, in evaluation mode. run: the folder that it left, or one of its checkpoints. which: of a
    folder, its `last` checkpoint, or the `best` by validation. device: `auto` takes an accelerator where there is one.
    trust: the run may name code of other packages than Roux's own (a method of one's own), which is then run.

    Raises UserError for a folder that is no run, and a checkpoint that cannot be read.
    """
    path = find_run(run, which)
    content = read_checkpoint(path)
    origin = content.get("provenance") or {}
    if any(key not in origin for key in KEPT):
        raise UserError(
            f"run: '{path}' does not say what it was made of, as checkpoints of older versions do not; "
            "resume the run for a step, or train it again"
        )
    config = OmegaConf.create(origin["config"])
    assert isinstance(config, DictConfig)
    if not trust:
        refuse_foreign(config, path)
    return rebuild(config, origin, content["state_dict"]).to(chosen_device(device)).eval()


def rebuild(config: DictConfig, origin: Mapping[str, Any], state: Mapping[str, Any]) -> Predictor:
    facts = Facts.from_plain(origin["facts"])
    # random numbers are drawn for weights that are then replaced: the caller's are left alone
    fresh = torch.random.fork_rng(devices=[])
    # methods try by gradients what they have built, also where the caller wants none of the model
    grad = torch.inference_mode(False)
    with tempfile.TemporaryDirectory() as folder, fresh, grad:
        assembly = assemble(without_files(config, origin, Path(folder)))
        recipe = build_recipe(assembly, facts)
    try:
        recipe.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"run: its weights do not fit what its config builds ({reason})") from error
    if recipe.teacher and recipe.teacher.moments:
        recipe.teacher.moments.settle()
    return Predictor(recipe, assembly.datamodule, facts, config)


def without_files(config: DictConfig, origin: Mapping[str, Any], folder: Path) -> DictConfig:
    """The config of the same recipe, which begins with no weights from elsewhere: all of them are in the checkpoint."""
    config = copy.deepcopy(config)
    with open_dict(config):
        network = config.network
        network.pretrained, network.checkpoint = False, None
        if origin["input_size"] is not None:
            network.input_size = origin["input_size"]
        if origin["encoder"] is not None:
            (folder / "config.json").write_text(origin["encoder"], encoding="utf-8")
            # whatever the options changed is written there
            network.name, network.options = str(folder), {}
            network.vocab_size = origin["vocab_size"]
        for node in (config.get("methods") or {}).values():
            if "load" in node:
                node.load = None
    return config


def refuse_foreign(config: DictConfig, path: Path) -> None:
    """A config names what is to be called: from a stranger that is code. Raises UserError where it is not Roux's."""
    faults: list[str] = []
    for _, node in targets(plain(config, "", faults), ""):
        name = str(node["_target_"])
        foreign = name.split(".")[0] not in OURS
        if foreign or str(getattr(find_target(name), "__module__", "")).split(".")[0] not in OURS:
            raise UserError(f"run: '{path}' calls '{name}', which is not Roux's; where you know it, say trust=true")


def read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        return load_checkpoint(str(path))
    except UserError as error:
        raise UserError(f"run: {str(error).removeprefix('resume: ')}") from error


def find_run(run: str | Path, which: Which = "last") -> Path:
    """The checkpoint that is meant. Raises UserError where there is none."""
    path = Path(run).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, siblings)
        raise UserError(f"run: there is no '{run}'; {near if near.startswith('did you') else 'check the path'}")
    last = last_stage(path)
    if last is not None:
        if not last.is_dir():
            raise UserError(f"run: '{run}' is not finished, its last stage '{last.name}' has not begun; resume it")
        path = last
    found = path / "checkpoints" / f"{which}.ckpt"
    if found.is_file():
        return found
    if which == "best" and (path / "checkpoints" / "last.ckpt").is_file():
        raise UserError(f"run: '{run}' has no best.ckpt, since nothing was validated; take which=last")
    runs = [p.name for p in sorted(path.iterdir()) if (p / "checkpoints").is_dir()]
    if runs:
        raise UserError(f"run: '{run}' holds several runs ({', '.join(runs[:6])}); name one, {path / runs[0]}")
    raise UserError(f"run: '{run}' is no run; expected a folder with checkpoints/{which}.ckpt, as train.py leaves it")


def last_stage(folder: Path) -> Path | None:
    """The folder of the last stage, where the run has several; None where it has none."""
    written = folder / "config.yaml"
    if not written.is_file():
        return None
    try:
        config = OmegaConf.load(written)
    except Exception as error:  # of YAML, of OmegaConf, of the file system
        raise UserError(f"run: '{written}' cannot be read: {first_line(error)}") from error
    stages = config.get("stages") if isinstance(config, DictConfig) else None
    return folder / list(map(str, stages))[-1] if stages else None


def chosen_device(device: str | torch.device) -> torch.device:
    """Raises UserError for a device that torch does not have."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"device: '{device}' cannot be used here ({first_line(error)}); expected cpu or auto"
        ) from error
    return found
