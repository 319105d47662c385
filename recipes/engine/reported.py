"""How a run is evaluated: what the reported network says, and what comes of it. The training step
is in `recipe.py`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from datamodules.streams import moved
from foundation.errors import UserError, nearest
from foundation.randomness import Randomness, SampleRandomness
from recipes.contract.composition import Composition
from recipes.contract.context import Context
from recipes.contract.method import Method
from recipes.contract.probe import Probe
from recipes.engine.evaluator import Evaluator
from recipes.engine.lean import Lean
from recipes.engine.sharding import keep_whole
from recipes.networks.network import Network
from recipes.services.moments import Moments
from recipes.services.teacher import Teacher
from recipes.step.forward import concatenate
from recipes.step.step import Embedded, Output, Stream
from recipes.tasks.classification import Task

MakeView = Callable[[Stream, str, Randomness], Any]
ReferenceBatches = Callable[[], Iterable[dict[str, dict[str, Any]]]]


class Evaluated(Lean):
    """The evaluation of a recipe. Methods take part by `receive`, before the network, and `infer`,
    after it; probes measure beside the tasks' own metrics. Everything named here is set by
    `Recipe`."""

    network: Network
    teacher: Teacher | None
    tasks: Mapping[str, Task]
    composition: Composition
    at: Mapping[str, list[Method]]
    evaluator: Evaluator
    probes: nn.ModuleList
    monitor: str | None
    seed: int
    latest: dict[str, float]
    total_steps: int
    _make_view: MakeView
    _reference_batches: ReferenceBatches | None
    _estimated_at: int

    def reported(self, raw: bool = False) -> Network:
        """The network that evaluation reports: the averaged one where a method evaluates it; `raw`:
        the trained one."""
        averaged = self.composition.evaluates_teacher and not raw
        return self.teacher.network if averaged and self.teacher else self.network

    @contextmanager
    def reporting(self) -> Iterator[Network]:
        """The reported network as it is evaluated: an averaged one has BatchNorm moments of its own
        here."""
        network = self.reported()
        self.estimate_moments()
        moments = self._moments()
        with moments.installed() if moments is not None and moments.known else nullcontext():
            yield network

    def _moments(self) -> Moments | None:
        """The moments that evaluation puts into the reported network; None where it uses the
        network's own."""
        moments = (
            self.teacher.moments if self.teacher and self.composition.evaluates_teacher else None
        )
        return moments if moments is not None and moments.layers else None

    def estimate_moments(self) -> None:
        """Estimate the moments of the reported network anew, where it was trained since the last
        time.

        They follow from weights and seed alone: a run that resumes finds the same ones."""
        moments, step = self._moments(), self.trainer.global_step if self._trainer else 0
        if (
            moments is None
            or self._reference_batches is None
            or step == self._estimated_at
            or not self.total_steps
        ):
            return
        network = self.reported()
        with torch.no_grad(), self.trainer.precision_plugin.val_step_context():
            batches = enumerate(self._reference_batches())
            moments.estimate(
                network, (self.reference_inputs(network, batch, i) for i, batch in batches)
            )
        self._estimated_at = step

    def reference_inputs(
        self, network: Network, batch: dict[str, dict[str, Any]], position: int
    ) -> Embedded:
        """What a training step normalises together: the views of all streams that the methods
        forward."""
        randomness = Randomness(self.seed, position, device=self.device)
        parts = []
        for name, fields in batch.items():
            stream = Stream(name, **moved(fields, self.device))
            # raw views are for surveys before training, not for its steps
            views = [view for view in self.composition.views[name] if view != "raw"]
            parts += [
                network.embed(self._make_view(stream, view, randomness))
                for view in views or ["raw"]
            ]
        return concatenate(parts)

    def predict_logits(
        self, view: Any, raw: bool = False, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Logits by task, as the run reports them: of the reported network, inference-time changes
        applied; under `embedding` the embedding, where there is one. `raw` is the trained network
        without any of that. index: [N], keys what is drawn for a sample."""
        return self.predict(self.reported(raw).embed(view), raw, index)

    def predict(
        self,
        embedded: Embedded,
        raw: bool = False,
        index: Tensor | None = None,
        randomness: SampleRandomness | None = None,
    ) -> dict[str, Tensor]:
        """The same from the continuous input, with a graph where gradients are on: what an attacker
        has before him. randomness: other draws than those of the evaluation."""
        output = self.predict_output(embedded, raw, index, randomness)
        logits = {task: values.float() for task, values in output.logits.items()}
        for method in () if raw else self.at["infer"]:
            logits |= {
                task: method.infer(logits[task], task, cast(Context, self)) for task in self.tasks
            }
        return logits

    def predict_output(
        self,
        embedded: Embedded,
        raw: bool = False,
        index: Tensor | None = None,
        randomness: SampleRandomness | None = None,
    ) -> Output:
        """What the reported network says of an input that methods may have changed."""
        if randomness is None:
            rows = (
                torch.arange(len(embedded.x), device=embedded.x.device) if index is None else index
            )
            randomness = SampleRandomness(self.seed, rows)
        for method in () if raw else self.at["receive"]:
            embedded = method.receive(embedded, randomness, cast(Context, self))
        if raw:
            return self.network(embedded)
        with self.reporting() as network:
            return network(embedded)

    def evaluation_view(self, batch: dict[str, Any]) -> Any:
        """The raw view of a batch {"data", "targets", "index"} of an evaluation loader."""
        return self._make_view(
            Stream("evaluation", **batch), "raw", Randomness(self.seed, 0, device=self.device)
        )

    def evaluate(self, batch: dict[str, Any], part: str) -> None:
        view = self.evaluation_view(batch)
        for raw in self.evaluator.variants if self.evaluator.names else ():
            self.evaluator.update(
                raw, self.predict_logits(view, raw, batch["index"]), batch["targets"]
            )
        for probe in self.probing(part):
            probe.update(cast(Context, self), view, batch["targets"], batch["index"])

    def probing(self, part: str) -> list[Probe]:
        return [probe for probe in cast(Iterable[Probe], self.probes) if part in probe.parts]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluate(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluate(batch, "test")

    def on_validation_epoch_start(self) -> None:
        keep_whole(self.network, self.device_mesh, True)

    def on_test_epoch_start(self) -> None:
        keep_whole(self.network, self.device_mesh, True)

    def on_validation_epoch_end(self) -> None:
        keep_whole(self.network, self.device_mesh, False)
        self.conclude("val")

    def on_test_epoch_end(self) -> None:
        keep_whole(self.network, self.device_mesh, False)
        self.conclude("test")

    def conclude(self, part: str) -> None:
        values = self.evaluator.compute(part)
        for probe in self.probing(part):
            values |= {f"{part}/{name}": float(value) for name, value in probe.compute().items()}
            probe.reset()
        if part == "val" and self.monitor and self.monitor not in values:
            raise UserError(
                f"monitor={self.monitor}: validation has no such metric; "
                f"{nearest(self.monitor, values)}"
            )
        # callbacks (best checkpoint, pruning) read Lightning's own metrics; loggers hear it from
        # us, on our step axis
        self.log_dict(values, logger=False)
        self.report(values, self.trainer.global_step)

    def report(self, values: dict[str, float], step: int) -> None:
        self.latest |= values
        for logger in self.loggers:
            logger.log_metrics(values, step=step)
