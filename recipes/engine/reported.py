"""The reported network of a run: its predictions and its evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from datamodules.evaluation_parts import CAMERAS
from datamodules.streams import moved
from foundation.randomness import Randomness, SampleRandomness
from recipes.contract.composition import Composition
from recipes.contract.context import Context
from recipes.contract.method import Method
from recipes.contract.probe import Probe
from recipes.contract.remark import Remark, columns
from recipes.engine.committee import Committee
from recipes.engine.evaluator import Evaluator
from recipes.engine.parts import DrawnSamples, MakeView, ReferenceBatches
from recipes.engine.remarked import Remarked
from recipes.networks.network import Network
from recipes.services.moments import Moments
from recipes.step.forward import concatenate
from recipes.step.step import Embedded, Output, Stream


class Run(Context, Protocol):
    """The recipe that is evaluated. steps_done: optimizer steps, 0 without a trainer."""

    @property
    def steps_done(self) -> int: ...


def others(methods: Sequence[Method], without: str) -> list[Method]:
    """The methods but that of a key."""
    return [method for method in methods if method.key != without]


class Reported:
    """The reported network of a run. `reported()` is the network: the EMA network if a method
    evaluates it, a committee if several networks answer; `reported(raw=True)`: the trained one.

    Methods change inputs in `transform_input` and logits in `infer`, and give values for each
    sample in `remark`; probes add metrics to those of the tasks.

    remarked: the values of the part that was evaluated last.
    """

    def __init__(
        self,
        run: Run,
        composition: Composition,
        evaluator: Evaluator,
        probes: Sequence[Probe],
        make_view: MakeView,
        reference_batches: ReferenceBatches | None = None,
        drawn_samples: DrawnSamples | None = None,
    ):
        self.run = run
        self.composition = composition
        self.evaluator = evaluator
        self.probes = probes
        self.make_view = make_view
        self.reference_batches = reference_batches
        self.drawn_samples = drawn_samples
        self._transforming = composition.implementing("transform_input")
        self._inferring = composition.implementing("infer")
        self._remarking = composition.implementing("remark")
        self.remarked = Remarked()
        self._estimated_at = 0  # optimizer steps
        self.committee = self._committee()

    def _committee(self) -> Committee | None:
        """All networks that answer, if there are several."""
        twins = self.composition.answering()
        if not twins:
            return None
        voter = self.composition.implementing("vote")[0]
        members = [self.run.network, *(self.run.networks[name] for name in twins)]
        return Committee(members, lambda logits, task: voter.vote(logits, task, self.run))

    def __call__(self, raw: bool = False) -> Network:
        if self.committee is not None and not raw:
            return self.committee
        teacher = self.run.teacher
        averaged = self.composition.evaluates_teacher and not raw
        return teacher.network if averaged and teacher else self.run.network

    # -- predictions -------------------------------------------------------------------------------
    def predict_logits(
        self, view: Any, raw: bool = False, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Logits by task as the run reports them, with inference-time changes; under `embedding`
        the embedding, if there is one. raw: of the trained network without these changes.
        index: [N], the key of each sample's random draws."""
        return self.predict(self(raw).embed(view), raw, index)

    def predict(
        self,
        embedded: Embedded,
        raw: bool = False,
        index: Tensor | None = None,
        randomness: SampleRandomness | None = None,
        without: str = "",
    ) -> dict[str, Tensor]:
        """The same from the continuous input, with a graph if gradients are enabled, for attacks.
        randomness: other draws than those of the evaluation. without: key of a method that leaves
        inputs and logits alone."""
        output = self.predict_output(embedded, raw, index, randomness, without)
        logits = {task: values.float() for task, values in output.logits.items()}
        for method in () if raw else others(self._inferring, without):
            for task in self.run.tasks:
                logits[task] = method.infer(logits[task], task, self.run)
        return logits

    def remarks(
        self,
        embedded: Embedded,
        logits: Mapping[str, Tensor] | None = None,
        index: Tensor | None = None,
    ) -> dict[str, Remark]:
        """What methods say about each sample, by `METHOD/NAME`. logits: those of `predict`, where
        they are known."""
        found: dict[str, Remark] = {}
        if not self._remarking:
            return found
        logits = logits or self.predict(embedded, index=index)
        for method in self._remarking:
            for name, remark in method.remark(embedded, logits, index, self.run).items():
                found[f"{method.key}/{name}"] = remark
        return found

    def predict_output(
        self,
        embedded: Embedded,
        raw: bool = False,
        index: Tensor | None = None,
        randomness: SampleRandomness | None = None,
        without: str = "",
    ) -> Output:
        """Features and logits of the reported network for an input that methods may have
        changed."""
        if raw:
            return self.run.network(embedded)  # type: ignore[no-any-return]
        if randomness is None:
            if index is None:
                index = torch.arange(len(embedded.x), device=embedded.x.device)
            randomness = SampleRandomness(self.run.seed, index)
        for method in others(self._transforming, without):
            embedded = method.transform_input(embedded, randomness, self.run)
        with self.reporting() as network:
            return network(embedded)  # type: ignore[no-any-return]

    # -- BatchNorm moments of an EMA network -------------------------------------------------------
    @contextmanager
    def reporting(self) -> Iterator[Network]:
        """The reported network for evaluation: an EMA network has its own BatchNorm moments inside
        the block."""
        network = self()
        self.estimate_moments()
        moments = self.moments()
        if moments is None or not moments.known:
            yield network
            return
        with moments.installed():
            yield network

    def moments(self) -> Moments | None:
        """The moments that evaluation installs in the reported network; None if it uses the
        network's own."""
        teacher = self.run.teacher
        moments = teacher.moments if teacher and self.composition.evaluates_teacher else None
        return moments if moments is not None and moments.layers else None

    def estimate_moments(self) -> None:
        """Estimate the moments of the reported network if it was trained since the last estimate.

        They are a function of weights and seed: a resumed run estimates the same ones."""
        moments = self.moments()
        step = self.run.steps_done
        if moments is None or self.reference_batches is None:
            return
        if step == self._estimated_at or not self.run.total_steps:
            return
        network = self()
        with torch.no_grad(), self.run.trainer.precision_plugin.val_step_context():
            batches = enumerate(self.reference_batches())
            inputs = (self.reference_inputs(network, batch, i) for i, batch in batches)
            moments.estimate(network, inputs)
        self._estimated_at = step

    def forget_moments(self) -> None:
        """The next use of the reported network estimates its moments again."""
        self._estimated_at = 0

    def reference_inputs(
        self, network: Network, batch: dict[str, dict[str, Any]], position: int
    ) -> Embedded:
        """The inputs that a training step normalizes together: the views of all streams that the
        methods forward."""
        randomness = Randomness(self.run.seed, position, device=self.run.device)
        inputs = []
        for name, fields in batch.items():
            stream = Stream(name, **moved(fields, self.run.device))
            # raw views are for passes before training, not for its steps
            views = [view for view in self.composition.views[name] if view != "raw"]
            for view in views or ["raw"]:
                inputs.append(network.embed(self.make_view(stream, view, randomness)))
        return concatenate(inputs)

    # -- evaluation --------------------------------------------------------------------------------
    @torch.no_grad()
    def training_samples(self, count: int) -> tuple[Embedded, dict[str, Tensor]]:
        """Labeled training samples as evaluation sees them, and their targets: up to `count`."""
        assert self.drawn_samples is not None, "a run that is loaded has no training samples"
        batch = moved(self.drawn_samples(count), self.run.device)
        return self().embed(self.evaluation_view(batch)), batch["targets"]

    def evaluation_view(self, batch: dict[str, Any]) -> Any:
        """The raw view of a batch {"data", "targets", "index"} of an evaluation loader."""
        randomness = Randomness(self.run.seed, 0, device=self.run.device)
        stream = Stream("evaluation", batch["data"], batch["targets"], batch["index"])
        return self.make_view(stream, "raw", randomness)

    def evaluate(self, batch: dict[str, Any], stage: str) -> None:
        """Add a batch to the metrics. stage: `val` or `test`."""
        view = self.evaluation_view(batch)
        index = batch["index"]
        logits = {}
        for raw in self.evaluator.variants if self.evaluator.names else ():
            logits[raw] = self.predict_logits(view, raw, index)
            self.evaluator.update(raw, logits[raw], batch["targets"])
        if self._remarking:
            remarks = self.remarks(self().embed(view), logits.get(False), index)
            self.remarked.add(index, columns(remarks))
        for probe in self.probes_of(stage):
            see_cameras(probe, batch)
            probe.update(self.run, view, batch["targets"], batch["index"])

    def see_gallery(self, batch: dict[str, Any], stage: str) -> None:
        """A batch of the samples among which the queries of this stage will be looked up."""
        view = self.evaluation_view(batch)
        for probe in self.probes_of(stage):
            see_cameras(probe, batch)
            probe.see_gallery(self.run, view, batch["targets"], batch["index"])

    def probes_of(self, stage: str) -> list[Probe]:
        return [probe for probe in self.probes if stage in probe.parts]

    def results(self, part: str, stage: str) -> dict[str, float]:
        """All metrics of a part; accumulation restarts for the next one."""
        values = self.evaluator.compute(part)
        if self._remarking:
            values |= self.remarked.compute(part)
        for probe in self.probes_of(stage):
            values |= {f"{part}/{name}": float(value) for name, value in probe.compute().items()}
            probe.reset()
        return values


def see_cameras(probe: Probe, batch: dict[str, Any]) -> None:
    if CAMERAS in batch:
        probe.see_cameras(batch[CAMERAS], batch["index"])
