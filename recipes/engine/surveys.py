"""Makes the surveys of a run's methods when they are due: one pass for all that are equal."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from foundation.distributed import global_sum, share_of, world_size
from foundation.errors import UserError, nearest
from foundation.randomness import derive_seed, seed_default
from recipes.contract.composition import Composition
from recipes.contract.method import Method
from recipes.contract.survey import Seen, Survey, Table
from recipes.engine.reported import Reported, Run
from recipes.engine.sharding import keep_whole
from recipes.networks.network import eval_mode
from recipes.services.row_writer import RowWriter, stacked

NEVER = math.inf


class SurveyedRun(Run, Protocol):
    """The recipe whose data are surveyed. device_mesh: of sharded parameters, else None."""

    @property
    def global_rank(self) -> int: ...

    @property
    def device_mesh(self) -> Any: ...

    def answer_of(
        self, network: str, view: Any, index: Tensor
    ) -> tuple[Mapping[str, Tensor], Tensor | None]: ...


class Pass(NamedTuple):
    """What surveys have in common that are made in one pass."""

    part: str
    network: str
    view: str
    mode: str
    draws: int
    batch: int | None
    gradients: str  # the name of the only survey, or empty


@dataclass(frozen=True)
class Asked:
    """A survey and the method that asked for it."""

    method: Method
    survey: Survey

    @property
    def name(self) -> str:
        return f"{self.method.key}.{self.survey.name}"

    @property
    def passing(self) -> Pass:
        s = self.survey
        alone = self.name if s.gradients else ""
        return Pass(s.part, s.network, s.view, s.mode, s.draws, s.batch, alone)


class Surveys:
    """The surveys of a run.

    next_due: optimizer steps after which the next one is made; infinite if there is none. A run
        without surveys compares one number a step.
    """

    def __init__(self, run: SurveyedRun, reported: Reported, composition: Composition):
        self.run = run
        self.reported = reported
        self.asked = [
            Asked(composition.methods[key], survey)
            for key, declaration in composition.declarations.items()
            for survey in declaration.surveys
        ]
        self.next_due: float = NEVER

    # -- when --------------------------------------------------------------------------------------
    def begin(self, done: int) -> None:
        """At the start of training, after `done` steps: a resumed run has the earlier tables."""
        if not self.asked:
            return
        if not done:
            self.make([asked for asked in self.asked if self.next_of(asked, -1) == 0])
        self.schedule(done)

    def after(self, done: int) -> None:
        """After step number `done`, when one is due."""
        self.make([asked for asked in self.asked if self.next_of(asked, done - 1) == done])
        self.schedule(done)

    def before_validation(self) -> None:
        if self.asked and self.data is not None:
            self.make([asked for asked in self.asked if asked.survey.when.at == "validation"])

    def at_finish(self) -> None:
        if self.asked and self.data is not None:
            self.make([asked for asked in self.asked if asked.survey.when.at != "steps"])

    def schedule(self, done: int) -> None:
        times = [self.next_of(asked, done) for asked in self.asked]
        self.next_due = min((time for time in times if time is not None), default=NEVER)

    def next_of(self, asked: Asked, done: int) -> int | None:
        return asked.survey.when.next_after(done, self.run.total_steps, self.data.pass_steps)  # type: ignore[no-any-return]

    def check(self, due: Sequence[Asked]) -> None:
        """Raise UserError for a part that this run's data do not have, or that has fewer samples
        than there are ranks: each has a share of its tables."""
        for asked in due:
            part = asked.survey.part
            size = len(self.data.parts.get(part, ()))
            if 0 < size < world_size():
                problem = f"surveys the part '{part}', which has {size} samples"
                remedy = f"expected one for each of {world_size()} devices"
                raise UserError(f"methods.{asked.method.key}", problem, remedy)
            if part not in self.data.parts:
                problem = f"surveys the part '{part}', which these data do not have"
                remedy = nearest(part, self.data.parts)
                if part == "val":
                    remedy = "hold one out, e.g. data.val_fraction=0.1"
                raise UserError(f"methods.{asked.method.key}", problem, remedy)

    @property
    def data(self) -> Any:
        return self.run.trainer.datamodule

    # -- passes ------------------------------------------------------------------------------------
    def make(self, due: Sequence[Asked]) -> None:
        """Make these surveys and tell their methods, in the methods' order."""
        self.check(due)
        passes: dict[Pass, list[Asked]] = {}
        for asked in due:
            passes.setdefault(asked.passing, []).append(asked)
        tables: dict[str, Table] = {}
        for passing, together in passes.items():
            with self.surveying():
                make = self.fisher_of if passing.gradients else self.tables_of
                tables |= make(passing, together)
        for asked in due:
            asked.method.surveyed(asked.survey, tables[asked.name], self.run)

    @contextmanager
    def surveying(self) -> Iterator[None]:
        """The run as in an evaluation. BatchNorm moments are those of the present weights, and are
        estimated anew by the next validation, as in a resumed run."""
        run = self.run
        self.reported.forget_moments()
        keep_whole(run.network, run.device_mesh, True)
        with eval_mode(cast(nn.Module, run)), run.trainer.precision_plugin.val_step_context():
            yield
        keep_whole(run.network, run.device_mesh, False)
        self.reported.forget_moments()

    def tables_of(self, passing: Pass, together: Sequence[Asked]) -> dict[str, Table]:
        """The tables of surveys that share a pass, by name: rows in the order of the part."""
        size = len(self.data.parts[passing.part])
        share = share_of(size)
        writers = {asked.name: RowWriter(size, share) for asked in together}
        number = RowWriter(size, share)
        if passing.mode == "dropout":
            activate_dropout(cast(nn.Module, self.run))
        with torch.no_grad():
            for place, batch in enumerate(self.batches(passing)):
                draws = [self.look(passing, batch, place, draw) for draw in range(passing.draws)]
                number.add({"index": batch["index"]})
                for asked in together:
                    found = [asked.survey.take(seen) for seen in draws]
                    writers[asked.name].add(stacked(found) if passing.draws > 1 else found[0])
        device = self.run.device
        index = number.whole(device)["index"]
        done: dict[str, Table] = {}
        for asked in together:
            table = writers[asked.name].whole(device)
            self.check_finite(asked, table)
            done[asked.name] = {"index": index, **table}
        return done

    def batches(self, passing: Pass) -> Iterator[dict[str, Any]]:
        """The batches of this rank's share of a part."""
        data = self.data
        for batch in data.share_loader(passing.part, passing.batch):
            if len(batch["index"]):  # of a few samples a rank may have none
                yield data.transfer_batch_to_device(batch, self.run.device, 0)

    def look(self, passing: Pass, batch: dict[str, Any], place: int, draw: int) -> Seen:
        run = self.run
        if passing.mode == "dropout":
            key = derive_seed(run.seed, run.steps_done, "survey", draw, place, run.global_rank)
            seed_default(key, run.device)
        index = batch["index"]
        if passing.network == "none":
            return Seen({}, None, batch["targets"], index)
        view = self.data.make_view(batch, passing.view)
        if passing.network == "reported":
            embedded = run.reported().embed(view)
            output = run.predict_output(embedded, index=index)
            remarks = partial(run.remarks, embedded, index=index)
            return Seen(output.logits, output.features, batch["targets"], index, remarks)
        logits, features = run.answer_of(passing.network, view, index)
        return Seen(logits, features, batch["targets"], index)

    def check_finite(self, asked: Asked, table: Table) -> None:
        """Raise UserError for a number that is NaN or infinite, with its sample."""
        for name, rows in table.items():
            if not rows.is_floating_point() or rows.isfinite().all():
                continue
            bad = (~rows.flatten(1).isfinite()).any(1) if rows.ndim > 1 else ~rows.isfinite()
            part = self.data.parts[asked.survey.part]
            row = int(part.rows[bad.nonzero()[0, 0]])
            sample = part.source.name_of(row)
            problem = (
                f"its survey of the part '{asked.survey.part}' finds '{name}' NaN or infinite for "
                f"{int(bad.sum())} of {len(bad)} samples, first for "
                + (f"'{sample}'" if sample else f"sample {row}")
            )
            remedy = "lower optimizer.lr, or look at the sample"
            raise UserError(f"methods.{asked.method.key}", problem, remedy)

    # -- gradients ---------------------------------------------------------------------------------
    def fisher_of(self, passing: Pass, together: Sequence[Asked]) -> dict[str, Table]:
        """By name of a trained parameter, the mean of the squared gradients of batches."""
        (asked,) = together
        within = asked.survey.within
        with within(self.run) if within else nullcontext():
            if passing.mode == "dropout":
                activate_dropout(cast(nn.Module, self.run))
            return {asked.name: self.mean_squares(passing, asked.survey)}

    def mean_squares(self, passing: Pass, survey: Survey) -> Table:
        trained = {n: p for n, p in self.run.network.named_parameters() if p.requires_grad}
        sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in trained.items()}
        count = torch.zeros((), device=self.run.device)
        for place, batch in enumerate(self.batches(passing)):
            with torch.enable_grad():
                loss = survey.take(self.look(passing, batch, place, 0))["loss"].mean()
                found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), found, strict=True):
                if gradient is not None:
                    total += clipped(gradient.float(), survey.clip).square()
            count += 1
        count = global_sum(count)
        return {name: global_sum(total) / count for name, total in sums.items()}


def clipped(gradient: Tensor, norm: float | None) -> Tensor:
    """A gradient of at most this norm, without a sync."""
    if norm is None:
        return gradient
    return gradient * (norm / gradient.norm().clamp_min(norm))


def activate_dropout(module: nn.Module) -> None:
    """All modules as in training but for batch normalization: attention has its dropout in a module
    without one of its own. `eval_mode` around it restores the modes."""
    for layer in module.modules():
        layer.training = not isinstance(layer, _BatchNorm)
