"""The folder of a run, and `resume=auto`: the same command again resumes the run that it began, or
begins it.

With a `run_dir` of its own the command resumes in that folder. Without one it resumes in the newest
folder beside the one it would make that holds an unfinished run of the very same config and that
nobody is writing.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from foundation.errors import UserError, raise_all
from recipes.checkpointing.files import TRACES, being_written, clear, has_checkpoint
from recipes.checkpointing.folder_files import (
    METRICS,
    STAGES,
    folder_errors,
    read_metrics,
    read_stages,
)
from recipes.config.plain_yaml import read_plain
from recipes.config.renamed import with_current_keys
from recipes.runs.loops import last_metrics
from recipes.setup.changes import PLACE, Difference, differences, plain
from recipes.setup.spec import RunSpec

AUTO = "auto"
# what may differ between a command and its repetition
OWN = ("run_dir", "resume", "accept_changes", "dry_run", "monitor")


@dataclass(frozen=True)
class Settled:
    """run_dir: the run's folder. resume: what it resumes. finished: the final metrics of a run that
    `resume=auto` finds finished, which is left alone. made: folders that were made so that no other
    command takes their name, the deepest first."""

    run_dir: str
    resume: str | None = None
    finished: dict[str, float] | None = None
    made: tuple[Path, ...] = ()

    def resuming(self, resume: str | None) -> "Settled":
        return replace(self, resume=resume)


def settle_place(spec: RunSpec, first: bool) -> Settled:
    """Settle the run's folder and what it resumes.

    first: this is the first rank, which alone changes the disk. Raises `UserError` if ranks that
    know nothing of each other would each make up a folder."""
    run_dir = spec.config.run_dir
    if not spec.run_dir_is_named and started_from_outside():
        raise UserError(
            "run_dir",
            f"'{run_dir}' would differ between processes that torchrun or srun start",
            "name a folder, for example run_dir=outputs/mine",
        )
    if spec.resume == AUTO:
        return settle_auto(spec, first)
    if spec.run_dir_is_named:
        return Settled(run_dir, spec.resume)
    return claimed(run_dir, first and not spec.dry_run).resuming(spec.resume)


def started_from_outside() -> bool:
    """Whether torchrun or srun started several processes of this command."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ.get("WORLD_SIZE", 1)) > 1
    return "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", 1)) > 1


def claimed(run_dir: str, makes: bool) -> Settled:
    """A folder that no other run has: its time is to the second, and two commands may start in one.
    makes: make it at once, since another command may look between two steps of this one."""
    if not makes:
        return Settled(next(name for name in names_like(run_dir) if not expanded(name).exists()))
    for name in names_like(run_dir):
        path = expanded(name)
        made = tuple(p for p in (path, *path.parents) if not p.exists())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            break
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError:
            break
        return Settled(name, made=made)
    return Settled(run_dir)  # the disk refuses, which is reported with all that is wrong


def names_like(run_dir: str) -> Iterator[str]:
    """`run`, `run_2`, `run_3` …"""
    yield run_dir
    yield from (f"{run_dir}_{number}" for number in itertools.count(2))


def expanded(name: str) -> Path:
    return Path(name).expanduser()


@contextmanager
def released(settled: Settled) -> Iterator[None]:
    """If the run inside fails, folders that were made for its name and are still empty go away."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for path in settled.made:
                path.rmdir()
        raise


def settle_auto(spec: RunSpec, first: bool) -> Settled:
    """The run's folder, and what it resumes, for `resume=auto`; as `settle_place`."""
    config = spec.config
    folder = spec.folder if spec.run_dir_is_named else newest_unfinished(config)
    if folder is None:
        return claimed(config.run_dir, first and not spec.dry_run)
    settled = Settled(str(folder))
    raise_all(folder_errors(folder))
    if not any((folder / trace).exists() for trace in (*TRACES, STAGES)):
        return settled
    check_stage_names(folder, config)
    if (folder / "metrics.json").is_file() or finished_stages(folder, config):
        return replace(settled, finished=finished(folder, config, first))
    begun_stages = spec.has_stages and (folder / "config.yaml").is_file()
    if has_checkpoint(folder) or begun_stages:
        return settled.resuming(str(folder))
    if first and not spec.dry_run and not being_written(folder):
        clear(folder)  # killed before it saved anything
    return settled


def check_stage_names(folder: Path, config: DictConfig) -> None:
    """Raise `UserError` if the folder holds a run of other stages than this recipe has: neither
    could resume the other, and would write over it."""
    path = folder / "config.yaml"
    written = written_config(path) if path.is_file() else {}
    if not written:
        return
    before, now = list(written.get("stages") or ()), list(config.get("stages") or ())
    if bool(before) == bool(now) and set(before) <= set(now):
        return
    old, new = (
        f"the stages {', '.join(names)}" if names else "one stage" for names in (before, now)
    )
    problem = f"'{folder}' holds a run of {old}, and this recipe has {new}"
    raise UserError("run_dir", problem, "name another run_dir")


def finished_stages(folder: Path, config: DictConfig) -> bool:
    """Whether a recipe of several stages has done all of them."""
    path = folder / STAGES
    if not config.get("stages") or not path.is_file():
        return False
    return set(config.stages) <= set(read_stages(path))


def finished(folder: Path, config: DictConfig, first: bool) -> dict[str, float]:
    """The metrics of a run that has nothing left to do, said to the user. Raises `UserError` if the
    command asks for other settings than those that it had."""
    check_finished(folder, config)
    if first:
        print(f"{folder}: finished already; nothing was done")
    if config.get("stages"):
        return last_metrics(read_stages(folder / STAGES))
    return read_metrics(folder / METRICS)


def check_finished(folder: Path, config: DictConfig) -> None:
    """Raise `UserError` if a finished run had other settings than this command, by name, with the
    way out."""
    path = folder / "config.yaml"
    changed = changed_settings(path, config) if path.is_file() else []
    if not changed:
        return
    listed = "; ".join(map(str, changed))
    problem = f"'{folder}' is finished, with other settings: {listed}"
    longer = all(d.key.endswith("trainer.max_steps") and d.new > d.old for d in changed)
    remedy = "name another run_dir"
    if longer and not config.get("stages"):
        remedy = f"to train it further: resume={folder} run_dir={folder}"
    raise UserError("run_dir", problem, remedy)


def changed_settings(path: Path, config: DictConfig) -> list[Difference]:
    """How a folder's config differs from this one, stage by stage if there are several."""
    old = plain(read_plain(path, f"resume: '{path}'"))
    new = plain(config)
    if not config.get("stages"):
        return differences(old, new, tuple(PLACE))
    changed: list[Difference] = []
    for name, stage in new["stages"].items():
        before = (old.get("stages") or {}).get(name) or {}
        for d in differences(before, stage, tuple(PLACE)):
            changed.append(Difference(f"stages.{name}.{d.key}", d.old, d.new))
    return changed


def newest_unfinished(config: DictConfig) -> Path | None:
    """The newest run of this config that was begun, not finished, and is not under way."""
    parent = Path(config.run_dir).expanduser().parent
    if not parent.is_dir():
        return None
    wanted = comparable_config(OmegaConf.to_container(config, resolve=True))
    for folder in sorted(parent.iterdir(), key=lambda path: path.name, reverse=True):
        if not may_be_resumed(folder, config):
            continue
        if comparable_config(written_config(folder / "config.yaml")) == wanted:
            return folder
    return None


def may_be_resumed(folder: Path, config: DictConfig) -> bool:
    """Whether a folder holds a run that is neither finished nor under way. One that cannot be read,
    or whose files are damaged, is left alone: it is not what the command named."""
    try:
        begun = (folder / "config.yaml").is_file() and not (folder / METRICS).is_file()
        return begun and not being_written(folder) and not finished_stages(folder, config)
    except (OSError, UserError):
        return False


def written_config(path: Path) -> dict[str, Any]:
    """The config of a run beside this one; empty if it cannot be read as plain values: then it is
    no run of ours."""
    try:
        tree = OmegaConf.to_container(read_plain(path, f"resume: '{path}'"), resolve=False)
    except UserError:
        return {}
    assert isinstance(tree, dict)
    return with_current_keys({str(key): value for key, value in tree.items()})


def comparable_config(tree: Any) -> dict[str, Any]:
    """The config of the run without its paths."""
    return {key: value for key, value in tree.items() if key not in OWN}
