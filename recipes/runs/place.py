"""Where a run lives, and `resume=auto`: the same command again goes on with the run that it began,
or begins it.

With a `run_dir` of its own the command goes on in that folder. Without one it goes on in the newest
folder beside the one it would make that holds an unfinished run of the very same config and that
nobody is writing.
"""

import itertools
import json
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from foundation.errors import UserError
from foundation.moved import with_current_names
from recipes.config.plain_yaml import read_plain
from recipes.runs.changes import PLACE, Difference, differences, parsed, plain
from recipes.runs.checkpoint_files import TRACES, being_written, clear, has_checkpoint

AUTO = "auto"
# what may differ between a command and its repetition
OWN = ("run_dir", "resume", "accept_changes", "dry_run", "monitor")


def settle_place(config: DictConfig, named: bool, first: bool) -> dict[str, float] | None:
    """Settle the run's folder and what it resumes. Returns the final metrics of a run that
    `resume=auto` finds finished, which is left alone.

    named: the user chose `run_dir`; else the folder gets a name of its own. first: this is the
    first rank, which alone changes the disk. Raises `UserError` where ranks that know nothing of
    each other would each make up a folder."""
    if not named and started_from_outside():
        raise UserError(
            f"run_dir: '{config.run_dir}' would differ between processes that torchrun or srun "
            "start; name a folder, "
            "for example run_dir=outputs/mine"
        )
    if config.resume == AUTO:
        return settle_auto(config, named, first)
    if not named:
        config.run_dir = unused(config.run_dir)
    return None


def started_from_outside() -> bool:
    """Whether torchrun or srun started several processes of this command."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ.get("WORLD_SIZE", 1)) > 1
    return "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", 1)) > 1


def unused(run_dir: str) -> str:
    """A name that no run has: its time is to the second, and two commands may start in one."""
    names = (run_dir if number == 1 else f"{run_dir}_{number}" for number in itertools.count(1))
    return next(name for name in names if not Path(name).expanduser().exists())


def settle_auto(config: DictConfig, named: bool, first: bool) -> dict[str, float] | None:
    """Put the run's folder, and what it resumes, in place of `resume=auto`; as `settle_place`."""
    folder = Path(config.run_dir).expanduser() if named else newest_unfinished(config)
    config.resume = None
    if folder is None:
        config.run_dir = unused(config.run_dir)
        return None
    config.run_dir = str(folder)
    if not any((folder / trace).exists() for trace in (*TRACES, "stages.json")):
        return None
    if (folder / "metrics.json").is_file() or finished_stages(folder, config):
        return finished(folder, config, first)
    if has_checkpoint(folder) or (config.get("stages") and (folder / "config.yaml").is_file()):
        config.resume = str(folder)
    elif first and not config.dry_run and not being_written(folder):
        clear(folder)  # killed before it kept anything
    return None


def finished_stages(folder: Path, config: DictConfig) -> bool:
    """Whether a recipe of several stages has done all of them."""
    path = folder / "stages.json"
    if not config.get("stages") or not path.is_file():
        return False
    return set(config.stages) <= set(json.loads(path.read_text("utf-8")))


def finished(folder: Path, config: DictConfig, first: bool) -> dict[str, float]:
    """The metrics of a run that has nothing left to do, said to the user. Raises `UserError` where
    the command asks for other settings than those that it had."""
    check_finished(folder, config)
    if first:
        print(f"{folder}: finished already; nothing was done")
    if config.get("stages"):
        return json.loads((folder / "stages.json").read_text("utf-8"))[list(config.stages)[-1]]
    return json.loads((folder / "metrics.json").read_text("utf-8"))


def check_finished(folder: Path, config: DictConfig) -> None:
    """Raise `UserError` where a finished run had other settings than this command, by name, with
    the way out."""
    path = folder / "config.yaml"
    found = changed_stages(path, config) if path.is_file() else []
    if not found:
        return
    said = f"run_dir: '{folder}' is finished, with other settings: {'; '.join(map(str, found))}"
    longer = all(d.key.endswith("trainer.max_steps") and d.new > d.old for d in found)
    if longer and not config.get("stages"):
        raise UserError(f"{said}; to train it further: resume={folder} run_dir={folder}")
    raise UserError(f"{said}; name another run_dir")


def changed_stages(path: Path, config: DictConfig) -> list[Difference]:
    """How a folder's config differs from this one, stage by stage where there are several."""
    old, new = parsed(path.read_text("utf-8"), f"resume: '{path}'"), plain(config)
    if not config.get("stages"):
        return differences(old, new, tuple(PLACE))
    found = []
    for name, stage in new["stages"].items():
        before = (old.get("stages") or {}).get(name) or {}
        found += [
            Difference(f"stages.{name}.{d.key}", d.old, d.new)
            for d in differences(before, stage, tuple(PLACE))
        ]
    return found


def newest_unfinished(config: DictConfig) -> Path | None:
    """The newest run of this config that was begun, not finished, and is not under way."""
    parent = Path(config.run_dir).expanduser().parent
    if not parent.is_dir():
        return None
    wanted = told(OmegaConf.to_container(config, resolve=True))
    for folder in sorted(
        (p for p in parent.iterdir() if p.is_dir()), key=lambda p: p.name, reverse=True
    ):
        path = folder / "config.yaml"
        if not path.is_file() or (folder / "metrics.json").is_file() or being_written(folder):
            continue
        if not finished_stages(folder, config) and told(written_config(path)) == wanted:
            return folder
    return None


def written_config(path: Path) -> dict[str, Any]:
    """The config of a run beside this one; empty where it cannot be read as plain values: then it
    is no run of ours."""
    try:
        found = OmegaConf.to_container(read_plain(path, f"resume: '{path}'"), resolve=False)
    except UserError:
        return {}
    assert isinstance(found, dict)
    return {str(key): value for key, value in with_current_names(found).items()}


def told(tree: Any) -> dict[str, Any]:
    """What the config says of the run apart from its paths."""
    return {key: value for key, value in tree.items() if key not in OWN}
