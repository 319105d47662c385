"""`resume=auto`: the same command again goes on with the run that it began, or begins it.

With a `run_dir` of its own the command goes on in that folder. Without one it goes on in the newest folder beside the
one it would make that holds an unfinished run of the very same config and that nobody is writing.
"""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipes.paths import TRACES, being_written, clear, has_checkpoint

AUTO = "auto"
OWN = ("run_dir", "resume", "dry_run", "monitor")  # what may differ between a command and its repetition


def settle_auto(config: DictConfig, named: bool) -> dict[str, float] | None:
    """Put the run's folder, and what it resumes, in place of `resume=auto`. Returns the final metrics of a run that is
    finished, which is left alone. named: the user chose `run_dir`."""
    folder = Path(config.run_dir).expanduser() if named else newest_unfinished(config)
    config.resume = None
    if folder is None or not any((folder / trace).exists() for trace in (*TRACES, "stages.json")):
        return None
    config.run_dir = str(folder)
    if (folder / "metrics.json").is_file() or finished_stages(folder, config):
        return finished(folder, config)
    if has_checkpoint(folder) or (config.get("stages") and (folder / "config.yaml").is_file()):
        config.resume = str(folder)
    elif not config.dry_run and not being_written(folder):
        clear(folder)  # killed before it kept anything
    return None


def finished_stages(folder: Path, config: DictConfig) -> bool:
    """Whether a recipe of several stages has done all of them."""
    path = folder / "stages.json"
    if not config.get("stages") or not path.is_file():
        return False
    return set(config.stages) <= set(json.loads(path.read_text("utf-8")))


def finished(folder: Path, config: DictConfig) -> dict[str, float]:
    """The metrics of a run that has nothing left to do, said to the user."""
    print(f"{folder}: finished already; nothing was done")
    if config.get("stages"):
        return json.loads((folder / "stages.json").read_text("utf-8"))[list(config.stages)[-1]]
    return json.loads((folder / "metrics.json").read_text("utf-8"))


def newest_unfinished(config: DictConfig) -> Path | None:
    """The newest run of this config that was begun, not finished, and is not under way."""
    parent = Path(config.run_dir).expanduser().parent
    if not parent.is_dir():
        return None
    wanted = told(OmegaConf.to_container(config, resolve=True))
    for folder in sorted((p for p in parent.iterdir() if p.is_dir()), key=lambda p: p.name, reverse=True):
        path = folder / "config.yaml"
        if not path.is_file() or (folder / "metrics.json").is_file() or being_written(folder):
            continue
        if finished_stages(folder, config) or told(OmegaConf.to_container(OmegaConf.load(path))) != wanted:
            continue
        return folder
    return None


def told(tree: Any) -> dict[str, Any]:
    """What the config says of the run apart from its paths."""
    return {key: value for key, value in tree.items() if key not in OWN}
