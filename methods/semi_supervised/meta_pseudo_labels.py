"""Meta Pseudo Labels. Pham, Dai, Xie and Le, Meta Pseudo Labels, CVPR 2021, arXiv 2003.10580."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from foundation.distributed import global_sum, mean_over_ranks
from foundation.types import Scale, Share, ShareBelowOne, Steps, Weight
from methods.semi_supervised.alignment import AlignsToLabels
from methods.semi_supervised.targets import confident, make_targets, soft_targets
from recipes.contract import Context, Declaration, Twin
from recipes.contract.method import Closure
from recipes.services.detached import OfView, Tensors, detached, gradient_step
from recipes.step import PseudoLabels, Step
from recipes.step.criterion import cross_entropy, kl_divergence, label_mass
from recipes.step.ramps import Ramp

TEACHER = "meta_teacher"
PRECISIONS = ("32-true", "32", "64-true", "64", "bf16-mixed", "bf16")


class MetaPseudoLabels(AlignsToLabels):
    """A teacher, the second network of the run, labels the strong view of unlabeled samples; the
    student, the network that is reported, learns these labels alone. How much the student's step
    lowers its loss on labeled samples, h, is the reward of the labels that were drawn:

        L_T = h · mean CE(ŷ, T(s(u))) + CE(labels, T(x)) + λ r(t) · UDA(T),  ŷ ~ p_T(s(u))
        L_S = mean CE(ŷ, S(s(u))),  h = L(S before its step) - L(S after it)

    `finite_difference` is the paper's practice. The student takes the optimizer's step first; both
    losses are of the same labeled batch, by batch statistics, without dropout. `exact`: soft labels
    q = p_T(s(u)) and a virtual step of plain gradient descent, θ' = θ - η ∇ CE(q, S(s(u))), through
    which the teacher gets the gradient of L(S with θ'). It needs second derivatives.

    Released codes score new - old; with hard labels this is the wrong sign. The supervised term is
    the teacher's, and so is everything that other methods do to it. The paper ends with a
    supervised fine-tuning of the student: a second stage without this method.

    The teacher's UDA is that of `uda`. As published on CIFAR-10 (uda_weight=8, temperature=0.7,
    threshold=0.6, align=0) the teacher of a short run falls to few classes, and the student too.

    feedback: how the teacher learns of the student's loss: `finite_difference` or `exact`.
    labels: the student's labels: `sampled` from p_T, or its `argmax`; `exact` has soft ones.
    baseline: decay of the mean of h that is subtracted from it, in [0, 1); null: none.
    student_start: share of the run before the student learns, 0 to 1; 0.01 (paper: 3000 of 300,000
        steps).
    label_weight: weight of the teacher's loss on labels, at least 0; 1 (paper).
    uda_weight: largest weight λ of the teacher's UDA loss, at least 0; 1 (UDA; paper: 8).
    uda_ramp: share of the run in which λ grows linearly, 0 to 1; 0.02 (paper: 5000 of
        300,000 steps).
    temperature: T of UDA's sharpening, above 0; 0.4 (UDA; authors' code: 0.7).
    threshold: confidence that UDA's weak view must exceed; 0.8 (UDA; authors' code: 0.6).
    step_size: η of `exact`, above 0; null: the learning rate.
    align: batches whose mean prediction is aligned with the frequencies of the labels, in UDA; 0:
        none (paper); 32 (ours). It assumes that unlabeled samples have the labels' frequencies.
    """

    def __init__(
        self,
        feedback: Literal["finite_difference", "exact"] = "finite_difference",
        labels: Literal["sampled", "argmax"] = "sampled",
        baseline: ShareBelowOne | None = 0.99,
        student_start: Share = 0.01,
        label_weight: Weight = 1.0,
        uda_weight: Weight = 1.0,
        uda_ramp: Share = 0.02,
        temperature: Scale = 0.4,
        threshold: Annotated[float, Field(ge=0)] = 0.8,
        step_size: Scale | None = None,
        align: Steps = 32,
    ):
        self.feedback = feedback
        self.labels = labels
        self.baseline = baseline
        self.student_start = student_start
        self.label_weight = label_weight
        self.uda_weight = uda_weight
        self.ramp = Ramp("linear", end=uda_ramp)
        self.temperature = temperature
        self.threshold = threshold
        self.step_size = step_size
        self.align = align if uda_weight else 0  # what is aligned are the labels of the UDA loss

    @property
    def exact(self) -> bool:
        return self.feedback == "exact"

    def declare(self) -> Declaration:
        return Declaration(
            views={"unlabeled": ("weak", "strong") if self.uda_weight else ("strong",)},
            networks={TEACHER: Twin()},
            slots=("pseudo_labels", "combine", "two_passes"),
            tags=("unlabeled_loss",),
            refuses={
                "attacks_labeled": "labeled samples are the teacher's, the attack is the student's",
                "mixes_inputs": "labeled samples are the teacher's, what is mixed is the student's",
                "metric_loss": "the student has no labels for a loss on its embedding",
            },
            accumulation=False,
            ddp_exact=not self.exact,
            ddp_difference="the virtual step of a device is that of its own samples",
            precisions=PRECISIONS,
            lower_on_collapse=("uda_weight",),
            uncompiled="it needs second derivatives" if self.exact else None,
        )

    def idle_settings(self) -> list[str]:
        return ["student_start"] if self.student_start == 1 else []

    def remarks(self) -> list[str]:
        lines = []
        if self.exact and self.labels != "sampled":
            lines.append(f"labels={self.labels} has no effect: feedback=exact has soft labels")
        if self.step_size is not None and not self.exact:
            lines.append("step_size has no effect: the student takes the step of the optimizer")
        return lines

    def build(self, context: Context) -> None:
        super().build(context)
        context.method_modules[self.key] = Reward()

    def waits(self, step: Step) -> bool:
        """Whether the student does not learn yet."""
        return step.progress.step < self.student_start * step.progress.total

    # -- in a step ---------------------------------------------------------------------------------
    def prepare(self, step: Step, context: Context) -> None:
        labeled = step.embedding("labeled", "weak", TEACHER)
        step.change("labeled", embedded=labeled, network=TEACHER)
        step.request("unlabeled", "strong")
        step.request("unlabeled", "strong", network=TEACHER)
        if self.uda_weight:
            step.request("unlabeled", "weak", grad=False, network=TEACHER)

    def terms(self, step: Step, context: Context) -> None:
        labels: dict[str, Tensor] = {}
        for task in step.tasks:
            scores = step.logits(f"{TEACHER}:unlabeled/strong", task)
            q = soft_targets(scores)
            labels[task] = q if self.exact else self.hard_labels(q, task, step)
            hard = q.argmax(1) if self.exact else labels[task]
            kept = torch.ones_like(hard, dtype=torch.bool)
            step.publish_pseudo_labels(task, PseudoLabels(q, hard, kept))
            values = step.classify("unlabeled/strong", task, "pseudo", labels[task])
            name = step.term_name(self.key, task)
            step.term(name, values, weight=0.0 if self.waits(step) else 1.0, task=task)
            if self.uda_weight:
                self.consistency(step, task, context)
            if self.label_weight != 1.0:
                supervised = step.terms[step.term_name("supervised", task)]
                supervised.weight = self.label_weight * supervised.weight
        if self.exact and not self.waits(step):
            step.term(f"{self.key}/teacher", self.loss_after_step(step, context))
        elif not self.waits(step):
            step.scratch[self.key] = self.teacher_gradient(labels, step, context)
        step.scalar(f"{self.key}/reward", self.module(context).last)

    def hard_labels(self, q: Tensor, task: str, step: Step) -> Tensor:
        if self.labels == "argmax":
            return q.argmax(1)
        draw = step.randomness.draw(f"{self.key}/{task}", len(q))
        return sampled(q, draw.uniform())

    def consistency(self, step: Step, task: str, context: Context) -> None:
        """UDA on the teacher."""
        weak = step.logits(f"{TEACHER}:unlabeled/weak", task)

        def mask(best: Tensor, label: Tensor) -> Tensor:
            return confident(best, label, self.threshold, strict=True)

        align = self.alignment(weak, task, step, context)
        target, pseudo = make_targets(weak, align=align, temperature=self.temperature, mask=mask)
        strong = step.loss_logits(f"{TEACHER}:unlabeled/strong", task, "pseudo")
        step.term(
            step.term_name(f"{self.key}/uda", task),
            kl_divergence(target, strong),
            weight=self.uda_weight * self.ramp(step.progress),
            mask=pseudo.mask,
            task=task,
        )

    # -- finite difference -------------------------------------------------------------------------
    def teacher_gradient(self, labels: Mapping[str, Tensor], step: Step, context: Context) -> Any:
        """The teacher's gradient of CE(ŷ, T(s(u))). Its factor is known only after the student's
        step."""
        losses = [
            cross_entropy(step.logits(f"{TEACHER}:unlabeled/strong", task), label).mean()
            for task, label in labels.items()
        ]
        weights = context.parameters_of(TEACHER)
        total = torch.stack(losses).sum()
        return torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)

    def wrap_step(self, closure: Closure, optimizer: Optimizer, context: Context) -> Any:
        loss = closure()
        step = context.current_step
        if self.exact or self.waits(step):
            return loss
        before = self.labeled_loss(step, context)
        context.step_alone("student", optimizer)
        reward = self.module(context).take(before - self.labeled_loss(step, context), self.baseline)
        gradients = step.scratch.pop(self.key)
        weights = context.parameters_of(TEACHER)
        add_gradients(weights, mean_over_ranks(gradients), reward)
        return loss

    @torch.no_grad()
    def labeled_loss(self, step: Step, context: Context) -> Tensor:
        """The student's cross-entropy on the labeled samples of all ranks, summed over tasks."""
        network = context.network
        with context.noise_free("student"):
            logits = network(network.embed(step.view("labeled", "weak"))).logits
        targets = step.streams["labeled"].targets
        return total_loss(logits, targets, global_sum)

    # -- exact -------------------------------------------------------------------------------------
    def loss_after_step(self, step: Step, context: Context) -> Tensor:
        """L(S with θ'), with a graph through the virtual step to the teacher's soft labels."""
        student = OfView(context.network)
        unlabeled = step.view("unlabeled", "strong")
        labeled = step.view("labeled", "weak")
        eta = self.step_size
        if eta is None:
            eta = context.trainer.optimizers[0].param_groups[0]["lr"]
        q = {
            task: torch.softmax(step.logits(f"{TEACHER}:unlabeled/strong", task), dim=1)
            for task in step.tasks
        }

        def loss_on_labels(parameters: Tensors) -> Tensor:
            logits = detached(student, parameters)(unlabeled).logits
            return torch.stack([cross_entropy(logits[t].float(), q[t]).mean() for t in q]).sum()

        own = {n: p.detach() for n, p in student.named_parameters() if p.requires_grad}
        # fused attention has no second derivative
        precise = torch.autocast(context.device.type, enabled=False)
        with context.noise_free("student"), sdpa_kernel(SDPBackend.MATH), precise:
            moved = gradient_step(loss_on_labels, own, eta)
            logits = detached(student, moved)(labeled).logits
        return total_loss(logits, step.streams["labeled"].targets)


class Reward(nn.Module):
    """The running mean of h, and the last reward; part of checkpoints."""

    mean: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def take(self, value: Tensor, decay: float | None) -> Tensor:
        """h minus the mean of earlier ones, which then includes it."""
        if decay is None:
            self.last.copy_(value)
        else:
            self.last.copy_(value - self.mean)
            self.mean.lerp_(value.to(self.mean), 1.0 - decay)
        return self.last


def sampled(q: Tensor, uniform: Tensor) -> Tensor:
    """Classes [N] of distributions q [N, C] by numbers in [0, 1), [N]: the inverse of the
    cumulative distribution."""
    passed = q.cumsum(1) <= uniform.unsqueeze(1)
    return passed.sum(1).clamp_max(q.shape[1] - 1)


def total_loss(
    logits: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    over_ranks: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Tensor:
    """Σ over tasks of the mean cross-entropy of the samples that have a label, in float32.
    over_ranks: of sums and counts."""
    totals = []
    for task, target in targets.items():
        loss = cross_entropy(logits[task].float(), target).sum()
        total, count = over_ranks(torch.stack([loss, label_mass(target).sum()]))
        totals.append(total / count.clamp_min(1.0))
    return torch.stack(totals).sum()


@torch.no_grad()
def add_gradients(
    weights: Sequence[nn.Parameter], gradients: Sequence[Tensor | None], factor: Tensor
) -> None:
    """Add factor · gradient to the gradients of these weights."""
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is None:
            continue
        scaled = gradient * factor.to(gradient)
        weight.grad = scaled if weight.grad is None else weight.grad + scaled
