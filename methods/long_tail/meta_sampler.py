"""Balanced Meta-Softmax. Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition,
NeurIPS 2020, arXiv 2007.10740."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, cast

import pytorch_lightning as pl
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from datamodules.class_orders import ClassCycle
from datamodules.samplers import Order
from datamodules.streams import StreamRequest
from foundation.distributed import global_sum, world_size
from foundation.errors import UserError, nearest
from foundation.types import Ratio, Scale
from methods.long_tail.logit_adjustment import adjusted
from methods.long_tail.meta_gradient import SGDStep, sample_slopes
from methods.long_tail.sample_rates import SampleRates, gumbel, members, present_classes
from recipes.contract import Context, Declaration, Method
from recipes.contract.environment import Environment
from recipes.step import Embedded, Step
from recipes.step.criterion import Role, cross_entropy
from recipes.step.forward import concatenate

CANDIDATES, BALANCED = "candidates", "balanced"
INSTANCES = 5e7  # largest B · N for which instances are drawn: 200 MB of random numbers
PLAIN_SGD = ("", "momentum", "sgd")


class Drawn(NamedTuple):
    """The batch of a step. rows: [B] of the pool. soft: [B], the soft weights of what was drawn,
    with a graph to `omega`."""

    rows: Tensor
    soft: Tensor
    omega: Tensor


class MetaSampler(Method):
    """p(c) ∝ n_c s_c, s_c = sigmoid(ω_c): the rates at which classes are drawn are learned. ω takes
    a step of Adam on CE(θ'; balanced batch), θ' = θ - η m' the classifier one step ahead on
    (1/B) Σ_b w_b l_b.

    l is the balanced softmax, with which θ is trained as well: with a class-balanced sampler it
    would correct the prior twice. w_b is 1, with the gradient of the Gumbel-softmax weight of
    what was drawn (straight through); m' is the run's own SGD with its momentum. The classifier
    then takes its real step on the same batch. It is the second stage after a plain training:
    `long_tail=[crt,meta_sampler]` on a frozen backbone.

    The batch is drawn on the device, from the rates of this very step, among the labeled samples of
    the step and `candidates` times as many of a class-balanced stream. The pool has every class, so
    a class is drawn with exactly p(c), and each of its samples equally often over a run; the loader
    never needs to know ω, and nothing is queued. Differs from the authors' code: samples of one
    class in one batch are drawn from the pool instead of the whole set. The balanced batch is
    another one. Dropout before the head is off in the look ahead.

    level: draw a `class` and then one of its samples, or an `instance` of the whole set (paper);
        `auto`: instances where B · N is below 5e7. The soft weight of an instance is a part of its
        class's, so the gradient of ω has the same direction, on another scale for each class.
    init_pow: a, s_c ∝ π_c^-a at the start, at least 0; 0: natural sampling. Scaled to (0, 1) by
        1 / (min + max).
    lr: learning rate of ω, above 0; 0.01 (authors).
    temperature: of the Gumbel-softmax, above 0; 1 (authors).
    inner: look ahead by `sgd`, with the run's momentum and decay, or `sgd_plain` (paper). The
        first is the authors' code, the second θ - η∇.
    candidates: samples of the balanced stream for each one drawn, at least 1; 4. Batch times
        candidates on each device must be at least twice the number of classes.
    task: task whose classes are drawn; null: the first.
    """

    def __init__(
        self,
        level: Literal["auto", "class", "instance"] = "auto",
        init_pow: Annotated[float, Field(ge=0)] = 0.0,
        lr: Scale = 0.01,
        temperature: Scale = 1.0,
        inner: Literal["sgd", "sgd_plain"] = "sgd",
        candidates: Ratio = 4,
        task: str | None = None,
    ):
        self.level = level
        self.init_pow = init_pow
        self.lr = lr
        self.temperature = temperature
        self.inner = inner
        self.candidates = candidates
        self.task = task

    def declare(self) -> Declaration:
        other_loss = "its look ahead knows the balanced softmax alone; leave one out"
        return Declaration(
            streams={
                CANDIDATES: StreamRequest("labeled", self.candidates),
                BALANCED: StreamRequest("labeled"),
            },
            views={CANDIDATES: ("weak",), BALANCED: ("weak",)},
            orders={CANDIDATES: self._balanced, BALANCED: self._balanced},
            slots=("sampler", "prior_correction"),
            tags=("resamples", "adjusts_logits"),
            requires={
                "freezes_backbone": (
                    "it learns to sample for the classifier on a frozen backbone; train one, and "
                    "add crt in a second stage: long_tail=[crt,meta_sampler]"
                )
            },
            refuses={
                "mixes_inputs": "it needs the one class of a sample; leave one out",
                "attacks_labeled": other_loss,
                "focal": other_loss,
                "soft_targets": other_loss,
                "unlabeled_loss": other_loss,
                "metric_loss": "it draws the labeled batch anew; leave one out",
                "features_by_task": "it needs one feature for all heads; leave one out",
            },
            accumulation=False,
            ddp_exact=False,
            ddp_difference="each draws among its own share of the samples",
        )

    def check(self, environment: Environment) -> None:
        if self.inner == "sgd" and environment.optimizer not in PLAIN_SGD:
            raise UserError(
                f"{environment.option(self.key)} looks one step of SGD ahead, and the run's "
                f"optimizer is {environment.optimizer}: set optimizer=sgd, or "
                f"methods.{self.key}.inner=sgd_plain"
            )

    # -- before the first step ---------------------------------------------------------------------
    def build(self, context: Context) -> None:
        counts = context.statistics.counts(self._task(context.tasks))
        few = self.level != "class" and float(counts.sum()) < INSTANCES
        context.method_modules[self.key] = SampleRates(counts, self.init_pow, instances=few)

    def _task(self, tasks: Mapping[str, Any]) -> str:
        task = self.task or next(iter(tasks))
        if task not in tasks:
            problem = f"the data has no task '{task}'; {nearest(task, tasks)}"
            raise UserError(f"methods.{self.key}.task: {problem}")
        return task

    def _balanced(
        self, targets: Mapping[str, Tensor], batch_size: int, total: int, seed: int, stream: str
    ) -> Order:
        return ClassCycle(targets[self._task(targets)], seed, stream)

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        batch = trainer.datamodule.batch_size  # type: ignore[attr-defined]
        context = cast(Context, module)
        counts = context.statistics.counts(self._task(context.tasks))
        self.check_sizes(batch, trainer.world_size, int((counts > 0).sum()), int(counts.sum()))

    def check_sizes(self, batch: int, world: int, classes: int, samples: int) -> None:
        """Raise UserError for a pool that may lack a class, and for too many instances."""
        own = batch * self.candidates // world
        # of a cycle over the classes, any window of this length has each of them
        least = 2 * classes - 1
        if own < least:
            needed = -(-least * world // batch)
            problem = f"{own} candidates on a device may lack one of {classes} classes"
            remedy = f"set it to {needed} or more, or raise data.batch_size"
            raise UserError(f"methods.{self.key}.candidates={self.candidates}", problem, remedy)
        if self.level == "instance" and batch * samples >= INSTANCES:
            problem = (
                f"a batch of {batch} times {samples} samples are {batch * samples:.1e} weights"
            )
            raise UserError(f"methods.{self.key}.level=instance", problem, "set level=class")

    # -- in a step ---------------------------------------------------------------------------------
    def prepare(self, step: Step, context: Context) -> None:
        step.request(BALANCED, "weak", grad=False, updates_bn_stats=False)
        targets = {
            task: torch.cat([step.streams[name].targets[task] for name in ("labeled", CANDIDATES)])
            for task in step.tasks
        }
        if self.key not in step.scratch:
            step.scratch[self.key] = self.draw(step, targets[self._task(targets)], context)
        rows = step.scratch[self.key].rows
        pool = concatenate([step.embedding("labeled", "weak"), step.embedding(CANDIDATES, "weak")])
        mask = None if pool.mask is None else pool.mask[rows]
        drawn = {task: labels[rows] for task, labels in targets.items()}
        step.change("labeled", embedded=Embedded(pool.x[rows], mask), targets=drawn)

    def draw(self, step: Step, labels: Tensor, context: Context) -> Drawn:
        """Samples of the pool by the present rates. labels: [M] of the pool."""
        rates: SampleRates = self.module(context)
        batch = step.streams["labeled"].size
        randomness = step.randomness
        instances = self.level == "instance" or (
            self.level == "auto" and batch * randomness.world * rates.samples < INSTANCES
        )
        noise = gumbel(randomness.draw(self.key, batch).uniform(rates.entries(instances)))
        present = present_classes(labels, rates.classes)
        omega = rates.omega.detach().requires_grad_()
        with torch.enable_grad():
            classes, soft = rates.draw(omega, noise, self.temperature, present, instances)
        within = randomness.draw(f"{self.key}/within", batch).uniform()
        return Drawn(members(labels, rates.classes, classes, within), soft, omega)

    def adjust(
        self,
        step: Step,
        logits: Tensor,
        target: Tensor | None,
        task: str,
        role: Role,
        context: Context,
    ) -> Tensor:
        if role != "labeled":
            return logits
        return adjusted(logits, context.statistics.log_prior(task), 1.0)

    def terms(self, step: Step, context: Context) -> None:
        """The gradient of ω, while the classifier is what it was when the batch was drawn."""
        if step.replay:
            return
        drawn: Drawn = step.scratch[self.key]
        with torch.autocast(context.device.type, enabled=False):
            slopes, loss = self.look_ahead(step, context)
            (gradient,) = torch.autograd.grad(slopes @ drawn.soft, drawn.omega)
        step.scratch[f"{self.key}/gradient"] = global_sum(gradient)
        step.scalar(f"{self.key}/balanced_loss", loss)

    def look_ahead(self, step: Step, context: Context) -> tuple[Tensor, Tensor]:
        """∂ CE(θ'; balanced batch) / ∂ w_b, [B], and that cross-entropy."""
        task = self._task(context.tasks)
        head = context.network.heads[task]
        theta = {name: p.detach() for name, p in head.named_parameters()}
        rules = self.rules(head, context.trainer.optimizers[0])
        log_prior = context.statistics.log_prior(task)
        x = step.outputs["labeled"].features.detach().float()
        y = step.inputs["labeled"].targets[task]
        balanced_x = step.outputs[f"{BALANCED}/weak"].features.detach().float()
        balanced_y = step.streams[BALANCED].targets[task]

        def losses(weights: dict[str, Tensor]) -> Tensor:
            logits = functional_call(head, weights, (x,))
            return cross_entropy(adjusted(logits, log_prior, 1.0), y)

        def meta_loss(weights: dict[str, Tensor]) -> Tensor:
            return cross_entropy(functional_call(head, weights, (balanced_x,)), balanced_y).mean()

        def mean(value: Tensor) -> Tensor:
            return global_sum(value) / world_size()

        return sample_slopes(losses, meta_loss, theta, rules, mean, world_size())

    def rules(self, head: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, SGDStep]:
        """How the optimizer moves each weight of the head."""
        found = {name: SGDStep.of(optimizer, p) for name, p in head.named_parameters()}
        if self.inner == "sgd_plain":
            return {name: SGDStep(rule.lr) for name, rule in found.items()}
        return found

    def after_batch(self, step: Step, context: Context) -> None:
        self.module(context).descend(step.scratch[f"{self.key}/gradient"], self.lr)
