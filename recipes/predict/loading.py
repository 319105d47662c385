"""Loading a finished run for prediction, without running code from it and without its data.

    model = recipes.load("outputs/fixmatch/2026-01-31_12-00-00")
    model.predict("picture.png")

A checkpoint contains its provenance: the config, facts of the data, the tokenizer, the architecture
of the encoder. The recipe of the run is rebuilt from them, so that predictions are those that the
run reported: of the averaged network if one is evaluated, with inputs and logits changed by the
methods.
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig

from datamodules.facts import DatasetFacts
from foundation.errors import UserError, first_line, nearest
from recipes.checkpointing.checked import check_form
from recipes.checkpointing.files import read_content
from recipes.checkpointing.folder_files import STAGES, read_stages
from recipes.checkpointing.form import Predictable
from recipes.config.plain_yaml import read_plain
from recipes.predict.architecture import check_kind, without_files
from recipes.predict.predictor import Predictor
from recipes.predict.trust import check_run_config
from recipes.runs.loops import was_done
from recipes.runs.run import build_recipe
from recipes.setup.assemble import assemble

Which = Literal["last", "best"]
STAGE = re.compile(r"\w[\w.\-]*")  # name of a stage, which is a subfolder of the run


def load(
    run: str | Path, which: Which = "last", device: str | torch.device = "cpu", trust: bool = False
) -> Predictor:
    """The model of a run, in evaluation mode.

    run: folder of the run, or one of its checkpoints.
    which: for a folder: its `last` checkpoint, or the `best` by validation.
    device: `auto` uses an accelerator if there is one.
    trust: the run may use code of other packages than Roux's own (the user's methods), which is
        then imported and listed on stderr. Without it only classes of Roux are built, no file but
        the checkpoint is read, and no hub is contacted.

    Raises UserError for a folder that is no run, and for a checkpoint that cannot be read.
    """
    path = find_run(run, which)
    content = read_checkpoint(path)
    origin = content["provenance"]
    config = check_run_config(origin["config"], path, trust)
    try:
        predictor = rebuild(config, origin, content["state_dict"], trust)
    except UserError as error:
        own = [e.about("") if e.key == "run" else e for e in error.errors]
        reason = "; ".join(map(str, own))
        raise UserError("run", f"'{path}': {reason}") from error
    # whatever Lightning, timm or transformers raise at values that do not belong together
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise UserError("run", f"'{path}': building its config failed ({reason})") from error
    return predictor.to(chosen_device(device)).eval()


def rebuild(
    config: DictConfig, origin: Mapping[str, Any], state: Mapping[str, Any], trust: bool = False
) -> Predictor:
    facts = DatasetFacts.from_plain(origin["facts"])
    # random numbers are drawn for weights that are then replaced: the caller's are left alone
    fresh = torch.random.fork_rng(devices=[])
    # methods check with gradients what they build, even if the caller is in inference mode
    grad = torch.inference_mode(False)
    with tempfile.TemporaryDirectory() as folder, fresh, grad:
        assembly = assemble(without_files(config, origin, Path(folder), trust))
        check_kind(assembly.datamodule.kind, origin)
        recipe = build_recipe(assembly, facts)
    try:
        recipe.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"run: its weights do not fit the network of its config ({reason})"
        ) from error
    if recipe.teacher and recipe.teacher.moments:
        recipe.teacher.moments.settle()
    return Predictor(recipe, assembly.datamodule, facts, config)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that has what prediction needs. Raises UserError."""
    content = read_content(path, "run")
    if content.get("provenance") is None:
        raise UserError(
            f"run: '{path}' has no provenance, as it is of an older version; resume the run for a "
            "step, or train it again"
        )
    check_form(content, Predictable, "run", path)
    return content


def find_run(run: str | Path, which: Which = "last") -> Path:
    """The checkpoint of a run. Raises UserError if there is none."""
    path = Path(run).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, siblings)
        raise UserError(
            "run",
            f"there is no '{run}'; {near if near.startswith('did you') else 'check the path'}",
        )
    last = last_stage(path)
    if last is not None:
        if not last.is_dir():
            raise UserError(
                f"run: '{run}' is not finished, its last stage '{last.name}' has not started; "
                "resume it"
            )
        path = last
    found = path / "checkpoints" / f"{which}.ckpt"
    if found.is_file():
        return found
    if which == "best" and (path / "checkpoints" / "last.ckpt").is_file():
        raise UserError(
            f"run: '{run}' has no best.ckpt, because it had no validation; use which=last"
        )
    runs = [p.name for p in sorted(path.iterdir()) if (p / "checkpoints").is_dir()]
    if runs:
        raise UserError(
            f"run: '{run}' contains several runs ({', '.join(runs[:6])}); choose one, e.g. "
            f"{path / runs[0]}"
        )
    raise UserError(
        f"run: '{run}' is no run; expected a folder of train.py with checkpoints/{which}.ckpt"
    )


def last_stage(folder: Path) -> Path | None:
    """The folder of the last stage that is a run and was not left out; None for a run without
    stages."""
    written = folder / "config.yaml"
    if not written.is_file():
        return None
    stages = read_plain(written, f"run: '{written}'").get("stages")
    if not stages:
        return None
    if not isinstance(stages, DictConfig) or not all(STAGE.fullmatch(str(name)) for name in stages):
        raise UserError("run", f"'{written}': stages: expected a mapping by names of stages")
    done = read_stages(folder / STAGES) if (folder / STAGES).is_file() else {}
    runs = [str(name) for name, stage in stages.items() if not is_program(stage)]
    left = [name for name in runs if name not in done or was_done(name, done)]
    if not left:
        raise UserError("run", f"'{written}': stages: none of them is a run")
    return folder / left[-1]


def is_program(stage: Any) -> bool:
    return isinstance(stage, DictConfig) and stage.get("program") is not None


def chosen_device(device: str | torch.device) -> torch.device:
    """A torch device. Raises UserError if torch cannot use it."""
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
