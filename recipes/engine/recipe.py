"""The training step: from a batch to a loss, with the points of the methods.

    batch → streams → views → prepare → one forward → adjust → terms → combine → (wrap_step) →
    after_batch → after_step

`contract/method.py` documents the points, `step/step.py` the data between them,
`engine/reported.py` the evaluation of a run, `engine/parts.py` the parts of a recipe.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foundation.base_file import FROZEN
from foundation.randomness import Randomness, derive_seed, own_draws, seed_default
from recipes.contract.method import POINTS
from recipes.contract.older import older_context
from recipes.engine.finite import Trace, Traces
from recipes.engine.frozen import frozen_names
from recipes.engine.hardware import compile_networks, set_memory_format
from recipes.engine.lean import drop_empty_hooks
from recipes.engine.meters import Meters, Stopwatch
from recipes.engine.parts import RecipeParts
from recipes.engine.several_networks import SeveralNetworks
from recipes.engine.sharding import shard
from recipes.engine.surveys import Surveys
from recipes.engine.unfreezing import Unfreezing
from recipes.networks.network import eval_mode
from recipes.step.step import Input, Progress, Step, Stream
from recipes.tasks.classification import Task


@older_context
class Recipe(SeveralNetworks):
    """A network, its tasks and the methods composed for this run."""

    last_step: Step | None = None  # of the whole run, for the images in its report
    _step: Step | None = None  # first pass of the current micro-batch

    # -- from a batch to a loss --------------------------------------------------------------------
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        if not self.replaying:
            # Only an accumulated batch is still unfinished: `optimizer_step` finishes its own. A
            # Lightning hook after each batch would cost more than this check.
            self.finish_batch()
        step = self.begin(batch)
        weak = step.embedding("labeled", "weak")
        step.add(Input("labeled", weak, dict(step.streams["labeled"].targets)))
        for method in self.methods_at["prepare"]:
            method.prepare(step, self)
        self.forward_inputs(step)
        for task in self.tasks.values():
            task.supervise(step)
        for method in self.methods_at["terms"]:
            method.terms(step, self)
        loss = self.combine(step)
        if self.skip_nonfinite and not torch.isfinite(loss):
            self.skipped += 1
            return None  # no gradient: Lightning skips the batch
        if not self.replaying:
            self.record(step, loss)
        return loss

    def begin(self, batch: dict[str, Any]) -> Step:
        """Create the step; its randomness is a function of seed, position in the run and rank."""
        position = batch["position"]
        rank = self.global_rank
        seed_default(derive_seed(self.seed, position, "network", rank), self.device)
        if self.network.gates is not None:
            self.network.gates.reset()
        fields = {name: content for name, content in batch.items() if name != "position"}
        return Step(
            streams={name: Stream(name, **content) for name, content in fields.items()},
            randomness=Randomness(self.seed, position, rank, self.trainer.world_size, self.device),
            make_view=self._make_view,
            embed=self.embed,
            criterion=self.criterion,
            progress=Progress(self.trainer.global_step, self.total_steps),
            tasks=tuple(self.tasks),
            replay=self.replaying,
            scratch=self._step.scratch if self.replaying and self._step else {},
        )

    def combine(self, step: Step) -> Tensor:
        """One scalar of all terms: their weighted sum, unless a method owns the combination."""
        step.losses = {name: term.reduced() for name, term in step.terms.items()}
        owner = next(iter(self.methods_at["combine"]), None)
        return owner.combine(step, self) if owner else step.weighted_sum()

    # -- the optimizer step ------------------------------------------------------------------------
    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Nest the methods' closures around Lightning's, the first method outermost, then run the
        points after a step."""
        closure = self.unfreezing.wrapped(optimizer_closure)
        for method in reversed(self.methods_at["wrap_step"]):
            closure = partial(method.wrap_step, closure, optimizer, self)
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        done = self.trainer.global_step + 1
        step = self.finish_batch()
        if step is not None:
            self.finish_step(step, done)
        self.unfreezing.advance(done)
        if done == self.surveys.next_due:
            self.surveys.after(done)
        if done % self.log_every == 0 or done == self.total_steps:
            self.publish(done, optimizer.param_groups[0]["lr"])

    def finish_step(self, step: Step, done: int) -> None:
        if self.teacher is not None:
            self.teacher.update(self.network, done)
        for method in self.methods_at["after_step"]:
            method.after_step(step, self)
        if done == self.total_steps:
            self.last_step = step

    def finish(self) -> None:
        """Called after the last step, before it is validated and its checkpoint is written."""
        self.surveys.at_finish()
        with eval_mode(self):
            for method in self.methods_at["finish"]:
                method.finish(self)

    def finish_batch(self) -> Step | None:
        """Called when no further pass over the current micro-batch can follow."""
        step = self._step
        self._step = None
        if step is not None:
            for method in self.methods_at["after_batch"]:
                method.after_batch(step, self)
        return step

    @property
    def current_step(self) -> Step:
        """The first pass of the current micro-batch, after its loss has been computed."""
        if self._step is None:
            raise RuntimeError("there is no current batch: its first pass has not ended")
        return self._step

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Inside it the closure runs another pass over the same batch: equal views and draws,
        nothing counted or logged twice."""
        self.replaying = True
        try:
            yield
        finally:
            self.replaying = False

    # -- logging -----------------------------------------------------------------------------------
    def record(self, step: Step, loss: Tensor) -> None:
        """Store the step's values on the device: no host sync, no `self.log`."""
        values = self.meters.add({"loss": loss, **step.losses, **step.scalars}, {})
        for task, pseudo in step.pseudo.items():
            truth = step.streams["unlabeled"].targets.get(task)
            self.meters.add_pseudo_labels(step.term_name("", task), pseudo, truth)
        samples = {name: stream.index for name, stream in step.streams.items()}
        self.traces.add(Trace(step.progress.step, ("loss", *step.losses), values, samples))
        self._step = step

    def publish(self, done: int, lr: float) -> None:
        """One transfer from the device: log the means since the last one. UserError for a loss that
        is NaN or infinite."""
        means = self.meters.flush()
        if not math.isfinite(means.get("loss", 0.0)):
            self.traces.check()
        self.traces.clear()
        values = {f"train/{name}": value for name, value in means.items()}
        values["train/lr"] = lr
        if self.skip_nonfinite:
            values["train/skipped"] = float(self.skipped)
        self.report(values, done)

    # -- construction, saving, resuming ------------------------------------------------------------
    def __init__(self, parts: RecipeParts):
        super().__init__()
        composition = parts.composition
        self.network = parts.network
        self.tasks: Mapping[str, Task] = {task.name: task for task in parts.tasks}
        self.composition = composition
        self.statistics = parts.statistics
        self.sizes = parts.sizes
        self.seed = parts.seed
        self.total_steps = parts.total_steps
        self.log_every = parts.log_every
        self.skip_nonfinite = parts.skip_nonfinite
        self._parts = parts
        self._make_view = parts.make_view
        self._make_optimizer = parts.make_optimizer
        self.methods_at = {point: composition.implementing(point) for point in POINTS}
        self.criterion = composition.criterion(self)
        self.method_modules = nn.ModuleDict()
        self.view_states = nn.ModuleDict(parts.view_states)
        self._make_modules()
        self.make_networks(parts)
        twins = self.networks_in_training()[1:]
        self.unfreezing = Unfreezing(self.network, self.teacher, self.total_steps, twins)
        self.make_evaluation(parts)
        self.surveys = Surveys(self, self.reported, composition)
        self.meters = Meters()
        self.traces = Traces()
        self.clock = Stopwatch()
        self.skipped = 0
        self.replaying = False
        drop_empty_hooks(self)

    def _make_modules(self) -> None:
        """The methods' own modules, each started from random numbers of its key alone."""
        weight = next(self.network.parameters(), None)
        device = self.device if weight is None else weight.device
        self.operate(self.network)
        for method in self.methods_at["build"]:
            with own_draws(self.seed, method.key, "build", device=device):
                method.build(self)

    def setup(self, stage: str) -> None:
        networks = self.all_networks()
        # before the optimizer creates its state, which has the weights' memory format
        if self.device_mesh is None:
            set_memory_format(
                networks, self._parts.channels_last, self.trainer.strategy.root_device
            )
        if self._parts.backend and stage == "fit":
            several_backwards = "combine" in self.composition.slots or bool(
                self.methods_at["combine"]
            )
            compile_networks(networks, self._parts.backend, several_backwards)

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            shard(self.network, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self._make_optimizer(self)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_train_start(self) -> None:
        self.unfreezing.begin(self.steps_done, several=self.trainer.world_size > 1)
        self.surveys.begin(self.steps_done)
        self.clock.start()  # not in a callback, whose other hooks would cost a call each

    def on_train_end(self) -> None:
        self.clock.stop()

    def on_test_start(self) -> None:
        if not self.total_steps:
            self.finish()

    @property
    def steps_done(self) -> int:
        """Optimizer steps so far; 0 without a trainer."""
        return self.trainer.global_step if self._trainer else 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.device_mesh is None:
            checkpoint[FROZEN] = frozen_names(self, self.network)
        checkpoint["identity"] = dict(self._parts.identity)
        checkpoint["provenance"] = dict(self._parts.provenance)
        checkpoint["numbers"] = {
            "latest": dict(self.latest),
            "seconds": self.clock.seconds,
            "skipped": self.skipped,
            "meters": self.meters.state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        numbers = checkpoint["numbers"]
        world = self.trainer.world_size
        self.meters.restore(numbers["meters"], self.device, self.global_rank, world)
        self.latest = numbers["latest"]
        self.skipped = numbers["skipped"]
        self.clock = Stopwatch(numbers["seconds"])
