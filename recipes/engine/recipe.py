"""The one training step: how a batch becomes a loss, and where methods take part.

    batch → streams → views → prepare → one forward → adjust → terms → combine → (wrap_step) →
    after_batch → after_step

Everything is run from here; what a method may do at each point is told in `method.py`, what flows
in `step.py`, how a run is evaluated in `evaluated.py`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial, reduce
from operator import add
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foundation.randomness import Randomness, derive_seed, seed_default
from recipes.contract.composition import Composition
from recipes.contract.probe import Probe
from recipes.engine.evaluator import Evaluator
from recipes.engine.finite import Trace, Traces
from recipes.engine.hardware import lies_channels_last, prepare_compiler
from recipes.engine.lean import hush
from recipes.engine.meters import Meters, Stopwatch
from recipes.engine.reported import Evaluated, MakeView, ReferenceBatches
from recipes.engine.sharding import shard
from recipes.networks.embedding import add_embedding
from recipes.networks.network import Network
from recipes.services.statistics import ClassStatistics
from recipes.services.teacher import Teacher
from recipes.step.batchnorm import BatchNorms
from recipes.step.criterion import Criterion
from recipes.step.forward import forward_inputs
from recipes.step.step import Embedded, Input, Net, Output, Progress, Step, Stream
from recipes.tasks.classification import Task

MakeOptimizer = Callable[["Recipe"], tuple[Optimizer, Any]]
POINTS = (
    *("surgery", "build", "prepare", "adjust", "cost", "weigh", "terms", "combine", "wrap_step"),
    *("after_batch", "after_step", "receive", "infer", "leave"),
)


class Recipe(Evaluated):
    """A network, its tasks and the methods composed for this run.

    sizes are the numbers of samples by stream; make_view makes a view of a stream; make_optimizer
    returns the optimizer and its scheduler by step; reference_batches returns training batches on
    which BatchNorm moments are estimated, None to estimate none; classifies tells whether
    evaluation asks the heads; monitor is the metric that a validation must yield; log_every is the
    number of optimizer steps between two transfers of metrics; backend names the compiler of the
    networks, None for none; channels_last is how kernels are to lie; identity is kept in every
    checkpoint, so that a run of another kind does not resume from it, and provenance, from which
    `loading` builds this recipe again without its data.
    """

    def __init__(
        self,
        network: Network,
        tasks: Sequence[Task],
        composition: Composition,
        statistics: ClassStatistics,
        sizes: dict[str, int],
        make_view: MakeView,
        make_optimizer: MakeOptimizer,
        reference_batches: ReferenceBatches | None = None,
        probes: Sequence[Probe] = (),
        classifies: bool = True,
        monitor: str | None = None,
        seed: int = 0,
        total_steps: int = 1,
        log_every: int = 50,
        skip_nonfinite: bool = False,
        backend: str | None = None,
        channels_last: bool | Literal["auto"] = False,
        identity: dict[str, str] | None = None,
        provenance: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.network, self.statistics, self.sizes, self.seed = network, statistics, sizes, seed
        self.tasks = {task.name: task for task in tasks}
        self.composition, self.total_steps, self.log_every = composition, total_steps, log_every
        self._make_view, self._make_optimizer = make_view, make_optimizer
        self._reference_batches, self._estimated_at = reference_batches, 0
        self.at = {point: composition.filling(point) for point in POINTS}
        self.method_modules = nn.ModuleDict()
        self.criterion = Criterion(
            [partial(method.adjust, context=self) for method in self.at["adjust"]],
            [partial(method.weigh, context=self) for method in self.at["weigh"]],
            [partial(method.cost, context=self) for method in self.at["cost"]],
        )
        for method in self.at["surgery"]:
            method.surgery(network)
        if composition.embedding:
            add_embedding(network, composition.embedding)
        for method in self.at["build"]:
            method.build(self)
        self.norms = BatchNorms(network)
        self.teacher = (
            Teacher(network, composition.teacher, total_steps) if composition.teacher else None
        )
        self.teacher_norms = BatchNorms(self.teacher.network) if self.teacher else None
        changed = composition.evaluates_teacher or self.at["receive"] or self.at["infer"]
        self.evaluator = Evaluator(tasks if classifies else (), both=bool(changed))
        self.probes = nn.ModuleList(probes)
        self.meters, self.replaying, self.monitor = Meters(), False, monitor
        self.traces, self.skip_nonfinite, self.skipped = Traces(), skip_nonfinite, 0
        self.latest: dict[str, float] = {}
        self.clock = (
            Stopwatch()
        )  # between the first and the last training step, validation included
        self.last_step: Step | None = None  # of the whole run, for the sheet of views on its page
        self._step: Step | None = None  # the micro-batch that is under way
        self._backend, self._channels_last = backend, channels_last
        hush(self)
        self._identity, self._provenance = dict(identity or {}), dict(provenance or {})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        numbers = {
            "latest": dict(self.latest),
            "seconds": self.clock.seconds,
            "skipped": self.skipped,
        }
        checkpoint |= {"identity": self._identity, "provenance": self._provenance}
        checkpoint["numbers"] = numbers | {"meters": self.meters.state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        numbers = checkpoint["numbers"]
        self.meters.restore(
            numbers["meters"], self.device, self.global_rank, self.trainer.world_size
        )
        self.latest, self.skipped, self.clock = (
            numbers["latest"],
            numbers["skipped"],
            Stopwatch(numbers["seconds"]),
        )

    # -- the way of a batch ------------------------------------------------------------------------
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        if not self.replaying:
            self.close_batch()
        step = self.begin(batch)
        step.add(
            Input(
                "labeled", step.embedding("labeled", "weak"), dict(step.streams["labeled"].targets)
            )
        )
        for method in self.at["prepare"]:
            method.prepare(step, self)
        self.forward_inputs(step)
        for task in self.tasks.values():
            task.supervise(step)
        for method in self.at["terms"]:
            method.terms(step, self)
        loss = self.combine(step)
        if self.skip_nonfinite and not torch.isfinite(loss):
            self.skipped += 1
            return None  # no gradient: Lightning leaves the batch out
        if not self.replaying:
            self.record(step, loss)
        return loss

    def begin(self, batch: dict[str, Any]) -> Step:
        """Open a step: its streams, and randomness that is a function of its position in the run
        alone."""
        position = batch["position"]
        seed_default(derive_seed(self.seed, position, "network", self.global_rank), self.device)
        if self.network.gates is not None:
            self.network.gates.reset()
        return Step(
            streams={
                name: Stream(name, **fields) for name, fields in batch.items() if name != "position"
            },
            randomness=Randomness(
                self.seed, position, self.global_rank, self.trainer.world_size, self.device
            ),
            make_view=self._make_view,
            embed=self.embed,
            criterion=self.criterion,
            progress=Progress(self.trainer.global_step, self.total_steps),
            tasks=tuple(self.tasks),
            replay=self.replaying,
        )

    def embed(self, view: Any, network: str) -> Embedded:
        """The continuous input of a view, for the student or the teacher."""
        if network == "student" or self.teacher is None:
            return self.network.embed(view)
        with torch.no_grad():
            return self.teacher.network.embed(view)

    def forward_inputs(self, step: Step) -> None:
        teacher = self.teacher.network if self.teacher else None
        # a replay repeats the batch: its statistics have been counted, the teacher's own as well
        mine = self.norms.frozen() if self.replaying else nullcontext()
        taught = (
            self.teacher_norms.frozen() if self.replaying and self.teacher_norms else nullcontext()
        )
        with mine, taught:
            step.outputs = forward_inputs(
                step.inputs, self.network, teacher, self.norms, step.representations
            )

    def forward_apart(self, embedded: Embedded, network: Net = "student") -> Output:
        """A forward beside the step's one, for a method that must know an output before it can name
        its inputs (a guess to mix with, an attack): in the network's present mode, running
        statistics untouched; with a graph unless the caller turns gradients off."""
        net, norms = self.network, self.norms
        if network == "teacher" and self.teacher is not None and self.teacher_norms is not None:
            net, norms = self.teacher.network, self.teacher_norms
        with norms.frozen():
            return net(embedded)

    def combine(self, step: Step) -> Tensor:
        """One scalar of all terms: their weighted sum, unless a method owns the combination."""
        step.losses = {name: term.reduced() for name, term in step.terms.items()}
        for method in self.at["combine"]:
            return method.combine(step, self)
        return reduce(add, [step.terms[name].weighted(loss) for name, loss in step.losses.items()])

    # -- the optimizer step ------------------------------------------------------------------------
    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Nest the methods' closures around Lightning's, innermost last; afterwards the once-a-step
        points."""
        closure = optimizer_closure
        for method in reversed(self.at["wrap_step"]):
            closure = partial(method.wrap_step, closure, optimizer, self)
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        step, done = self.close_batch(), self.trainer.global_step + 1
        if step is not None:
            self.close_step(step, done)
        if done % self.log_every == 0 or done == self.total_steps:
            self.publish(done, optimizer.param_groups[0]["lr"])

    def close_step(self, step: Step, done: int) -> None:
        if self.teacher is not None:
            self.teacher.update(self.network, done)
        for method in self.at["after_step"]:
            method.after_step(step, self)
        if done == self.total_steps:
            self.last_step = step

    def close_batch(self) -> Step | None:
        """The last pass of a micro-batch is over: its next one begins, or the optimizer has
        stepped."""
        step, self._step = self._step, None
        if step is not None:
            for method in self.at["after_batch"]:
                method.after_batch(step, self)
        return step

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Run the closure once more on the same batch: equal views and draws, nothing counted or
        logged twice."""
        self.replaying = True
        try:
            yield
        finally:
            self.replaying = False

    def setup(self, stage: str) -> None:
        networks = [self.network, *([self.teacher.network] if self.teacher else [])]
        # before the optimizer makes its state, which lies as the weights do
        whole = self.device_mesh is None
        if whole and lies_channels_last(
            self._channels_last, self.network, self.trainer.strategy.root_device
        ):
            for network in networks:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._backend and stage == "fit":
            prepare_compiler(several_backwards=bool(self.at["combine"]))
            for network in networks:
                network.compile(backend=self._backend)

    def on_train_start(self) -> None:
        # here and not in a callback, which would be called at every other hook as well
        self.clock.start()

    def on_train_end(self) -> None:
        self.clock.stop()

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            shard(self.network, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self._make_optimizer(self)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # -- what is logged ----------------------------------------------------------------------------
    def record(self, step: Step, loss: Tensor) -> None:
        """Keep the step's numbers on the device: no host sync, no `self.log`."""
        values = self.meters.add({"loss": loss, **step.losses, **step.scalars}, {})
        for task, believed in step.pseudo.items():
            self.meters.believe(
                step.named("", task), believed, step.streams["unlabeled"].targets.get(task)
            )
        samples = {name: stream.index for name, stream in step.streams.items()}
        self.traces.add(Trace(step.progress.step, ("loss", *step.losses), values, samples))
        self._step = step

    def publish(self, done: int, lr: float) -> None:
        """One transfer: the means since the last one go to all loggers. UserError for a loss that
        is no number."""
        means = self.meters.flush()
        if not math.isfinite(means.get("loss", 0.0)):
            self.traces.check()
        self.traces.clear()
        values = {f"train/{name}": value for name, value in means.items()} | {"train/lr": lr}
        self.report(
            values | ({"train/skipped": float(self.skipped)} if self.skip_nonfinite else {}), done
        )
