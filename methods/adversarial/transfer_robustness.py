"""Robust accuracy under an attack on a proxy network."""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from foundation.distributed import gathering_device, global_sum
from foundation.types import Count
from methods.adversarial.attacks.black_box import BlackBox, Labels, Source, Transferred
from methods.adversarial.attacks.losses import fixed
from methods.adversarial.attacks.threat import Norm, Radius, Threat
from methods.adversarial.reported_victim import ReportedVictim
from methods.adversarial.under_attack import UnderAttack, correct
from recipes.contract import Context
from recipes.step import Embedded


class BlackBoxRobustness(UnderAttack):
    """x' made on a proxy network that is trained on the target's answers, in rounds that double its
    pictures, and handed to the target. Liu et al., Delving into Transferable Adversarial Examples
    and Black-box Attacks, ICLR 2017, arXiv 1611.02770; Papernot et al., Practical Black-Box Attacks
    against Machine Learning, ASIA CCS 2017, arXiv 1602.02697.

    Proxies are trained before the first sample is attacked. agreement: share of the clean samples
    to which the last one and the target give one class. proxy_success: share of the samples that
    the target classifies correctly, and whose attacked form the last proxy does not.

    proxy: labels of the proxy: the target's answers, `query`, or true ones, `train_data`. These
        are of up to 10,000 training samples, and take no queries.
    run: a finished run whose network is the proxy, its folder or checkpoint; null: one is trained.
    queries: answers of the target that proxies are trained on, at least 2^rounds; 6400.
    rounds: how often the pictures are doubled, at least 0; 6 (Papernot et al.).
    augment: length λ of an augmentation step in pixels of [0, 1]; 0.1 (Papernot et al.).
    labels: the target answers with a class, `hard` (Papernot et al.), or with probabilities,
        `soft`.
    passes: of a proxy's training over its pictures, at least 1; 20.
    width: channels of the proxy's first layer, at least 1; 32.
    transfer: the attack on the proxy: `mi_fgsm`, `ni_fgsm`, `dim`, `pgd` or `fgsm`.
    steps: steps of that attack, at least 1; 10.
    """

    algorithm: BlackBox
    modalities: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        proxy: Source = "query",
        run: str | None = None,
        queries: Count = 6400,
        rounds: Annotated[int, Field(ge=0, le=20)] = 6,
        augment: Radius = 0.1,
        labels: Labels = "hard",
        passes: Count = 20,
        width: Count = 32,
        transfer: Transferred = "mi_fgsm",
        steps: Count = 10,
        samples: Count | None = None,
    ):
        attack = BlackBox(
            proxy, run, queries, rounds, augment, labels, passes, width, transfer, steps
        )
        super().__init__(attack, norm, eps, samples)
        self.likeness: Tensor | None = None  # sums: samples, alike, correct, proxy fooled
        if not attack.asks:
            delattr(self, "queries")  # the report does not name what is not used

    def update(
        self, context: Context, view: Any, targets: dict[str, Tensor], index: Tensor
    ) -> None:
        if not self.algorithm.proxies and self.algorithm.run is None:
            self.fit(context)
        super().update(context, view, targets, index)

    def fit(self, context: Context) -> None:
        classes = {name: task.outputs for name, task in context.tasks.items()}

        def target(x: Tensor) -> dict[str, Tensor]:
            logits = context.predict(Embedded(x))
            return {task: logits[task] for task in classes}

        embedded, targets = context.training_samples(self.algorithm.pictures)
        x = embedded.x.detach().float()
        with torch.autocast(x.device.type, enabled=False), fixed(context.reported()):
            self.algorithm.fit(target, x, targets, classes, context.seed)

    def points(self, victim: ReportedVictim, threat: Threat) -> list[Tensor]:
        points = super().points(victim, threat)
        proxy = self.algorithm.proxies[-1].model
        right = correct(victim)
        with torch.no_grad():
            theirs = victim.logits(victim.x)
            ours = proxy(victim.x)
            attacked = proxy(points[-1])
        alike = torch.ones_like(right)
        fooled = torch.zeros_like(right)
        for task, target in victim.targets.items():
            alike &= ours[task].argmax(1) == theirs[task].argmax(1)
            fooled |= (attacked[task].argmax(1) != target) & (target >= 0)
        columns = (torch.ones_like(right), alike, right, right & fooled)
        sums = torch.stack([column.double().sum() for column in columns])
        self.likeness = sums if self.likeness is None else self.likeness + sums
        return points

    def compute(self) -> dict[str, Tensor]:
        found = super().compute()
        if not found:
            return found
        none = torch.zeros(4, dtype=torch.float64, device=gathering_device())
        count, alike, right, fooled = global_sum(none if self.likeness is None else self.likeness)
        found["agreement"] = alike / count
        if right:
            found["proxy_success"] = fooled / right
        return found

    def reset(self) -> None:
        super().reset()
        self.likeness = None
        if self.algorithm.run is None:  # of the network as it was
            self.algorithm.proxies = []
