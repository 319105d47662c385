"""The hand-written loop of five methods at once; see `bare.py`."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.bare import LOG_EVERY, BareFixMatch, Batch
from recipes.services.statistics import ClassStatistics
from recipes.setup.assemble import Assembly
from recipes.step import Progress


class BareFive(BareFixMatch):
    """FixMatch, Pi-Model (arXiv 1610.02242), logit adjustment (arXiv 2007.07314), label smoothing
    and averaged weights in one step, each by its published formula; every term is logged."""

    def __init__(self, assembly: Assembly, folder: Path, device: str, free: bool = False):
        super().__init__(assembly, folder, device, free)
        methods: Any = assembly.composition.methods
        self.epsilon = methods["label_smoothing"].epsilon
        self.tau = methods["logit_adjustment"].tau
        counts = self.data.class_counts().to(device)
        self.log_prior = ClassStatistics({"label": counts}).log_prior("label").to(device)
        fraction = self.data.sizes["labeled"] / self.data.sizes["unlabeled"]
        self.weight = methods["pi_model"].weight * fraction
        self.ramp = methods["pi_model"].ramp
        self.sums = torch.zeros(7, device=device)
        self.steps_begun = 0

    def views(self, batch: Batch, step: int) -> Batch:
        labeled, _, unlabeled, truth = batch
        self.steps_begun = step
        return (
            *super().views(batch, step),
            self.weak(labeled, self.draw(step, "labeled/weak2", len(labeled))),
            self.weak(unlabeled, self.draw(step, "unlabeled/weak2", len(unlabeled))),
            truth,
        )

    def objective(self, views: Batch) -> Tensor:
        labeled, labels, weak, strong, labeled2, weak2, truth = views
        parts = [labeled, weak, strong, labeled2, weak2]
        outputs = self.forward(torch.cat(parts)).split([len(x) for x in parts])
        logits, believed, taught, logits2, believed2 = outputs
        with torch.no_grad():
            certainty, guess = believed.softmax(1).max(1)
            mask = (certainty >= self.threshold).float()
        classes = logits.shape[1]
        hard = F.one_hot(labels, classes).float()
        smoothed = (1.0 - self.epsilon) * hard + self.epsilon / classes
        adjusted = logits + self.tau * self.log_prior
        supervised = (smoothed * -F.log_softmax(adjusted, dim=1)).sum(1).mean()
        consistency = (F.cross_entropy(taught, guess, reduction="none") * mask).mean()
        one = torch.cat((logits, believed)).softmax(1)
        two = torch.cat((logits2, believed2)).softmax(1)
        stability = (one - two).square().mean(1).mean()
        weight = self.weight * self.ramp(Progress(self.steps_begun, self.total))
        loss = supervised + consistency + weight * stability
        with torch.no_grad():
            right = (mask * (guess == truth)).sum()
            terms = loss, supervised, consistency, stability
            numbers = *terms, mask.mean(), certainty.mean(), right / mask.sum()
            self.sums += torch.stack(numbers)
        return loss

    def log(self, step: int, loss: Tensor) -> None:
        if (step + 1) % LOG_EVERY == 0:
            means = [f"{value / LOG_EVERY!r}" for value in self.sums.tolist()]
            rate = self.optimizer.param_groups[0]["lr"]
            self.file.write(f"{step + 1},{','.join(means)},{rate!r}\n")
            self.file.flush()
            self.sums.zero_()
