"""Virtual adversarial training. Miyato, Maeda, Koyama and Ishii, Virtual Adversarial Training,
TPAMI 2018, arXiv 1704.03976; on texts after Miyato, Dai and Goodfellow, ICLR 2017, arXiv
1605.07725."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from foundation.types import Share
from methods.directions import unit
from methods.semi_supervised.consistency import entropy
from methods.semi_supervised.targets import make_targets
from recipes.contract import Context, Declaration, Method
from recipes.step import Embedded, Input, Step, Targets
from recipes.step.criterion import kl_divergence
from recipes.step.ramps import Ramp, RampKind

BLOCK = 8  # token positions whose random numbers are drawn together


class Defaults(NamedTuple):
    """What a setting that is null stands for."""

    epsilon_share: float
    weight: float
    detach: bool


PICTURES = Defaults(0.05, 1.0, True)
TEXTS = Defaults(0.016, 0.1, False)


def adversarial_direction(
    divergence: Callable[[Tensor], Tensor], start: Tensor, xi: Tensor, iterations: int
) -> Tensor:
    """The unit direction [N, …] in which D(r) grows fastest: repeat d ← unit(∇_d Σ_i D(ξ_i d)_i).

    D and its gradient are 0 at r = 0, so D ≈ r'Hr/2 and the gradient at ξd is ξHd: a power
    iteration towards the top eigenvector of H. With 0 iterations d is the random start.

    divergence: r [N, …] -> [N].
    """
    d = unit(start)
    for _ in range(iterations):
        d = d.detach().requires_grad_()
        with torch.enable_grad():
            # the sum, not the mean: a row's gradient must not shrink with the batch size
            total = divergence(xi * d).sum()
        (gradient,) = torch.autograd.grad(total, d)
        d = unit(gradient)
    return d.detach()


def words(embedded: Embedded) -> Tensor | None:
    """[N, L], True on the tokens of a text that may be perturbed: no special tokens, no padding;
    None for images."""
    return embedded.mask if embedded.content is None else embedded.content


def spread(embedded: Embedded) -> tuple[Tensor, Tensor]:
    """Standard deviation of every sample's input, over the words of a text, and the root of the
    number of its values: [N, 1, …] each. Their product is the norm of the input around its mean."""
    x = embedded.x.detach()
    included = on_words(torch.ones_like(x), embedded)
    dims = tuple(range(1, x.ndim))
    count = included.flatten(1).sum(1).clamp_min(1.0).view(-1, *[1] * (x.ndim - 1))
    mean = (x * included).sum(dims, keepdim=True) / count
    variance = ((x - mean) * included).square().sum(dims, keepdim=True) / count
    return variance.sqrt().clamp_min(1e-3), count.sqrt()


def on_words(x: Tensor, embedded: Embedded) -> Tensor:
    """x with zeros on padding and special tokens."""
    mask = words(embedded)
    return x if mask is None else x * mask.unsqueeze(-1)


def draw_noise(step: Step, key: str, embedded: Embedded) -> Tensor:
    """Normal numbers in the shape of the input. For texts they are drawn in blocks of positions, so
    that they depend neither on the padded length of the batch nor on the number of ranks."""
    rows, *shape = embedded.x.shape
    if embedded.mask is None:
        return step.randomness.draw(key, rows).normal(*shape)
    length, width = shape
    blocks = [
        step.randomness.draw(f"{key}/{at}", rows).normal(BLOCK, width)
        for at in range(0, length, BLOCK)
    ]
    return torch.cat(blocks, dim=1)[:, :length]


class VAT(Method):
    """Lu = mean KL(q ‖ p(u + r)), q = p(u), r = ε d, d the direction in which the prediction
    changes fastest.

    d comes from a power iteration (`adversarial_direction`) on the embedded input; it uses
    `autograd.grad`, so parameter gradients do not change. r is not clipped. The attack runs without
    autocast: in bfloat16 the direction is lost to rounding. Clean, probing and perturbed passes use
    batch statistics, separately from the other inputs of the step, and do not update running ones;
    their dropout masks differ, as in the authors' code. All tasks share one perturbation, from the
    sum of their divergences. Costs three forwards per sample (with K = 1) and one backward to the
    input.

    epsilon: ε, L2 norm of a sample's perturbation in units of the embedded input, at least 0; null:
        epsilon_share of the sample's own size (ours; the paper has a number for each data set).
        Pixels are in [0, 1], before the network's normalisation; 3 on pictures of 32×32×3 is the 6
        in [-1, 1] of the WRN-28-2 re-evaluations.
    epsilon_share: ε as a share of a sample's ‖x - mean(x)‖, at least 0; null: 0.05 (ours), on texts
        0.016. The size of a text is that of its words. 0.05 was chosen on photographs and digits;
        the papers' numbers are about 0.2 on pictures of 32×32×3 and 0.016 on texts of 400 words.
        Not used with an epsilon.
    xi: ξ, probing distance in standard deviations of the sample, above 0; 0.01 (ours). The
        published 1e-6 is below the resolution of float32, and 10 leaves the quadratic regime.
    iterations: steps K of the power iteration, 0 to 20; 1 (paper); 0: random noise of norm ε.
    weight: factor α of the consistency loss, at least 0; null: 1 (paper), on texts 0.1 (ours).
    ramp: growth of the weight: `constant` (paper), `linear` or `sigmoid`.
    ramp_end: share of the run after which the weight is full, 0 to 1; 0.4; not used by `constant`.
    detach: stop the gradient of q (papers); null: on pictures, not on texts (ours). A constant q
        teaches the network its own predictions, until an encoder of texts from random weights says
        one class of most. False costs a fourth forward.
    entropy_weight: weight of mean H(p(u)), with gradient, ramped alike; 0: none (1 in VAT+EntMin).
        Costs the same fourth forward.
    """

    neutral = {"epsilon": 0, "epsilon_share": 0}
    declaration = Declaration(
        views={"unlabeled": ("weak",)},
        tags=("unlabeled_loss",),
        # not with weights in half precision: rounding hides the direction
        precisions=("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16", "16", "32", "64"),
    )

    def __init__(
        self,
        epsilon: Annotated[float, Field(ge=0)] | None = None,
        epsilon_share: Annotated[float, Field(ge=0)] | None = None,
        xi: Annotated[float, Field(gt=0)] = 0.01,
        iterations: Annotated[int, Field(ge=0, le=20)] = 1,
        weight: Annotated[float, Field(ge=0)] | None = None,
        ramp: RampKind = "constant",
        ramp_end: Share = 0.4,
        detach: bool | None = None,
        entropy_weight: Annotated[float, Field(ge=0)] = 0.0,
    ):
        self.epsilon = epsilon
        self.epsilon_share = epsilon_share
        self.xi = xi
        self.iterations = iterations
        self.weight = weight
        self.ramp = Ramp(ramp, end=ramp_end)
        self.detach = detach
        self.entropy_weight = entropy_weight

    def declare(self) -> Declaration:
        size = "epsilon_share" if self.epsilon is None else "epsilon"
        return replace(self.declaration, lower_on_collapse=(size, "weight"))

    def idle_settings(self) -> list[str]:
        idle = super().idle_settings()
        return idle if self.epsilon is None else [name for name in idle if name != "epsilon_share"]

    def remarks(self) -> list[str]:
        if self.epsilon is None or self.epsilon_share is None:
            return []
        return [f"epsilon_share={self.epsilon_share:g} has no effect: epsilon is {self.epsilon:g}"]

    def prepare(self, step: Step, context: Context) -> None:
        embedded = step.embedding("unlabeled", "weak")
        direction, q = self.attack(step, embedded, context)
        perturbed = embedded._replace(x=embedded.x + self.norm(embedded) * direction)
        step.add(Input(f"{self.key}/perturbed", perturbed, q, updates_bn_stats=False))
        if self.entropy_weight or not self.settings(embedded).detach:
            step.request("unlabeled", "weak", updates_bn_stats=False)

    def settings(self, embedded: Embedded) -> Defaults:
        """What is set, and the defaults of this kind of data."""
        defaults = PICTURES if embedded.mask is None else TEXTS
        own = {name: getattr(self, name) for name in Defaults._fields}
        return defaults._replace(**{name: v for name, v in own.items() if v is not None})

    def norm(self, embedded: Embedded) -> float | Tensor:
        """ε, of all samples or of each, [N, 1, …]."""
        if self.epsilon is not None:
            return self.epsilon
        deviation, root = spread(embedded)
        return self.settings(embedded).epsilon_share * deviation * root

    def attack(self, step: Step, embedded: Embedded, context: Context) -> tuple[Tensor, Targets]:
        """d [N, …] and the clean predictions q [N, C] by task."""
        x = embedded.x.detach()
        mask = embedded.mask

        def divergence(r: Tensor) -> Tensor:
            z = context.extra_forward(Embedded(x + on_words(r, embedded), mask)).logits
            by_task = [kl_divergence(q[task], z[task].float()) for task in step.tasks]
            return torch.stack(by_task).sum(0)

        with torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():
                clean = context.extra_forward(Embedded(x, mask)).logits
            q = {task: make_targets(clean[task]).value for task in step.tasks}
            start = on_words(draw_noise(step, self.key, embedded).to(x.dtype), embedded)
            xi = self.xi * spread(embedded)[0]
            return adversarial_direction(divergence, start, xi, self.iterations), q

    def terms(self, step: Step, context: Context) -> None:
        name = f"{self.key}/perturbed"
        ramp = self.ramp(step.progress)
        settings = self.settings(step.inputs[name].embedded)
        for task in step.tasks:
            moved = step.logits(name, task)
            if settings.detach:
                values = kl_divergence(step.inputs[name].targets[task], moved)
            else:
                clean = step.logits("unlabeled/weak", task)
                values = kl_divergence(clean, moved, from_logits=True)
            weight = settings.weight * ramp
            step.term(step.term_name(self.key, task), values, weight=weight, task=task)
            if self.entropy_weight:
                values = entropy(step.logits("unlabeled/weak", task))
                named = step.term_name(f"{self.key}/entropy", task)
                step.term(named, values, weight=self.entropy_weight * ramp, task=task)
