"""What a run leaves in its folder: the config and the plan before the first step, files of methods,
the page and the loggers' summaries after the last one."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from foundation.attempts import Attempts
from foundation.files import discard, printable, write_text
from recipes.checkpointing.best import BEST, drop_damaged
from recipes.checkpointing.files import PREVIOUS
from recipes.engine.recipe import Recipe
from recipes.loggers.build import finish_loggers, start_loggers
from recipes.loggers.final_table import print_final
from recipes.report.page import write_report
from recipes.report.record import RunRecord
from recipes.runs.collect import collect
from recipes.runs.ranks import notify
from recipes.runs.resume import Resume
from recipes.setup.assemble import Assembly, plain
from recipes.setup.changes import config_text
from recipes.setup.spec import RunSpec


@dataclass(frozen=True)
class Parts:
    """What a run is made of, once its module is built. resume: where it resumes, if it does. plan:
    as text."""

    spec: RunSpec
    assembly: Assembly
    recipe: Recipe
    loggers: list[Any]
    resume: Resume | None
    plan: str

    @property
    def folder(self) -> Path:
        return self.spec.folder


def write_settings(parts: Parts) -> None:
    """What is known before the first step: config and plan."""
    assembly = parts.assembly
    write_text(parts.folder / "config.yaml", config_text(assembly.config, assembly.changes))
    write_text(parts.folder / "plan.txt", parts.plan)
    start_loggers(parts.loggers, plain(assembly.config), parts.plan)


@rank_zero_only
def write_outputs(parts: Parts, final: dict[str, float]) -> None:
    """What is known after the last step: artifacts of methods, the page, the loggers' summaries."""
    recipe = parts.recipe
    files = parts.folder / "checkpoints"
    attempts = Attempts()
    for method in recipe.methods_at["save_artifacts"]:
        attempts.do(f"files of {method.key}", partial(method.save_artifacts, files, recipe))
    command = list(parts.spec.command)
    record = collect(parts.assembly, recipe, parts.loggers, parts.plan, command, final)
    record.lost = [*attempts.lost, *record.lost]
    page = parts.folder / "report.html"
    lost = list(record.lost)
    lost += attempts.make("report.html", partial(write_report, record, page), [])
    discard(files / PREVIOUS)
    drop_damaged(files / BEST)
    kept = {kind: files / f"{kind}.ckpt" for kind in ("last", "best")}
    lost += finish_loggers(parts.loggers, record, kept)
    attempts.do("table", partial(print_end, record, parts.folder))
    notify([f"warning: {line}" for line in dict.fromkeys([*lost, *attempts.lost])])


def print_end(record: RunRecord, folder: Path) -> None:
    """The last lines of a run: its metrics, and where its page is."""
    title = printable(str(folder))
    print_final(record.final, title, reported=record.reported, monitor=record.monitor)
    print(f"report: {title}/report.html")
