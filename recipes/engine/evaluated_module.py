"""The evaluation half of a recipe: Lightning's hooks, and calls of methods and probes, are passed
on to `Reported`."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

from torch import Tensor, nn

from datamodules.evaluation_parts import GALLERY
from foundation.errors import UserError, nearest
from foundation.randomness import SampleRandomness
from recipes.contract.composition import Composition
from recipes.contract.probe import Probe
from recipes.contract.remark import Remark
from recipes.engine.collapse import CollapseWatch, print_warnings
from recipes.engine.evaluator import Evaluator
from recipes.engine.lean import LeanModule
from recipes.engine.parts import RecipeParts
from recipes.engine.reported import Reported, Run
from recipes.engine.sharding import keep_whole
from recipes.engine.surveys import Surveys
from recipes.networks.network import Network
from recipes.step.step import Embedded, Output


class EvaluatedModule(LeanModule):
    """reported: predicts and evaluates.
    monitor: the metric that every validation must have.
    evaluated: the parts by stage, `val` or `test`.
    latest: the last value of every metric.
    collapse: notices predictions of one class, or at chance.
    """

    network: Network
    composition: Composition
    reported: Reported
    surveys: Surveys
    monitor: str | None
    latest: dict[str, float]
    collapse: CollapseWatch
    evaluated: Mapping[str, Sequence[str]]
    _part: str  # that is being evaluated
    _values: dict[str, float]  # of the parts that are done
    total_steps: int

    def make_evaluation(self, parts: RecipeParts) -> None:
        """Create the evaluation; the teacher must exist."""
        composition = parts.composition
        tasks = parts.tasks if parts.classifies else ()
        self.evaluator = Evaluator(tasks, both=composition.changes_evaluation)
        self.probes = nn.ModuleList(parts.probes)
        self.reported = Reported(
            cast(Run, self),
            composition,
            self.evaluator,
            cast(Sequence[Probe], self.probes),
            parts.make_view,
            parts.reference_batches,
            parts.drawn_samples,
        )
        for probe in parts.probes:
            probe.build(cast(Run, self))
        self.collapse = CollapseWatch(tasks, composition, parts.total_steps)
        self.monitor = parts.monitor
        self.evaluated = parts.evaluated
        self.latest = {}
        self._part = ""
        self._values = {}

    def validation_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._evaluate(batch, "val", dataloader_idx)

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate(batch, "test", dataloader_idx)

    def _evaluate(self, batch: dict[str, Any], stage: str, number: int) -> None:
        part = self.evaluated[stage][number]
        if part != self._part:
            self._close(stage)
            self._part = part
        if not len(batch["index"]):  # of a few samples a rank may have none
            return
        if part.endswith(GALLERY):
            self.reported.see_gallery(batch, stage)
        else:
            self.reported.evaluate(batch, stage)

    def _close(self, stage: str) -> None:
        """The metrics of the part that was evaluated before: the accumulators serve all parts, one
        after the other. Every rank has as many batches, so all close it together."""
        if self._part and not self._part.endswith(GALLERY):
            self._values |= self.reported.results(self._part, stage)
        self._part = ""

    def on_validation_epoch_start(self) -> None:
        self.surveys.before_validation()
        keep_whole(self.network, self.device_mesh, True)

    def on_test_epoch_start(self) -> None:
        keep_whole(self.network, self.device_mesh, True)

    def on_validation_epoch_end(self) -> None:
        self._conclude("val")

    def on_test_epoch_end(self) -> None:
        self._conclude("test")

    def _conclude(self, stage: str) -> None:
        keep_whole(self.network, self.device_mesh, False)
        self._close(stage)
        values = self._values
        self._values = {}
        self._check_monitor(stage, values)
        # callbacks (best checkpoint, pruning) read Lightning's metrics; `report` logs them, with
        # optimizer steps as x-axis
        self.log_dict(values, logger=False)
        self.report(values, self.trainer.global_step)
        if self.total_steps and not self.trainer.sanity_checking:
            judge = self.collapse.validated if stage == "val" else self.collapse.ended
            lines = judge(self.evaluator.class_counts, self.trainer.global_step)
            if self.trainer.is_global_zero:
                print_warnings(lines)

    def _check_monitor(self, stage: str, values: Mapping[str, float]) -> None:
        """Raise UserError if a validation lacks the metric that judges the run."""
        if stage == "val" and self.monitor and self.monitor not in values:
            problem = "validation has no such metric"
            raise UserError(f"monitor={self.monitor}", problem, nearest(self.monitor, values))

    def report(self, values: dict[str, float], step: int) -> None:
        self.latest |= values
        for logger in self.loggers:
            logger.log_metrics(values, step=step)

    # -- calls of methods and probes ---------------------------------------------------------------
    def taking_turns(self, slot: str) -> list[Any]:
        return self.composition.taking_turns(slot)

    def reporting(self) -> AbstractContextManager[Network]:
        return self.reported.reporting()

    def estimate_moments(self) -> None:
        self.reported.estimate_moments()

    def evaluation_view(self, batch: dict[str, Any]) -> Any:
        return self.reported.evaluation_view(batch)

    def training_samples(self, count: int) -> tuple[Embedded, dict[str, Tensor]]:
        return self.reported.training_samples(count)

    def predict_logits(
        self, view: Any, raw: bool = False, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        return self.reported.predict_logits(view, raw, index)

    def predict(
        self,
        embedded: Embedded,
        raw: bool = False,
        index: Tensor | None = None,
        randomness: SampleRandomness | None = None,
        without: str = "",
    ) -> dict[str, Tensor]:
        return self.reported.predict(embedded, raw, index, randomness, without)

    def remarks(
        self,
        embedded: Embedded,
        logits: Mapping[str, Tensor] | None = None,
        index: Tensor | None = None,
    ) -> dict[str, Remark]:
        return self.reported.remarks(embedded, logits, index)

    def predict_output(
        self,
        embedded: Embedded,
        raw: bool = False,
        index: Tensor | None = None,
        randomness: SampleRandomness | None = None,
        without: str = "",
    ) -> Output:
        return self.reported.predict_output(embedded, raw, index, randomness, without)
