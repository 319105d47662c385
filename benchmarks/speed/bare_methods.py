"""The hand-written loops of several tasks, of MGDA, and of five methods at once; see `bare.py`."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.bare import LOG_EVERY, Bare, BareFixMatch, Batch
from foundation.devices import readable
from methods.multi_task.mgda import min_norm
from recipes.runs.assembly import Assembly
from recipes.services.statistics import ClassStatistics
from recipes.step import Embedded, Progress


class BareTasks(Bare):
    """Two tasks in one network, their losses added."""

    def views(self, batch: Batch, step: int) -> Batch:
        pixels, labels = batch
        return self.weak(pixels, self.draw(step, "labeled/weak", len(pixels))), *labels.unbind(1)

    def objective(self, views: Batch) -> Tensor:
        x, *targets = views
        logits = self.network(Embedded(x)).logits.values()
        losses = map(self.cross_entropy, logits, targets)
        return sum(losses)  # type: ignore[return-value]


class BareMGDA(BareTasks):
    """MGDA-UB (arXiv 1810.04650) by hand: a backward through each head, the shortest vector in the
    hull of the gradients of the shared features, scaled to a sum of weights of T, and one backward
    through the rest."""

    def objective(self, views: Batch) -> Tensor:
        x, *targets = views
        z = self.network.features(Embedded(x))
        heads = list(self.network.heads.values())
        logits = [head(z) for head in heads]
        losses = list(map(self.cross_entropy, logits, targets))
        self.shared, self.found = z, []
        for loss, head in zip(losses, heads, strict=True):
            weights = list(head.parameters())
            slope, *own = torch.autograd.grad(loss, [z, *weights], retain_graph=True)
            self.found.append((slope, weights, own))
        return losses[0] + losses[1]

    def backward(self, loss: Tensor) -> None:
        slopes = [slope for slope, _, _ in self.found]
        with torch.no_grad():
            stacked = torch.stack([slope.flatten() for slope in slopes])
            w = min_norm((stacked @ stacked.T).double())
            w = (w * len(w) / w.sum()).float()
        for _, weights, own in self.found:
            for weight, gradient in zip(weights, own, strict=True):
                weight.grad = gradient
        first, second = slopes[0] * w[0], slopes[1]
        # a number of the host is multiplied and added in one, with one rounding
        self.shared.backward(
            torch.add(first, second, alpha=float(w[1])) if readable(w) else first + second * w[1]
        )


class BareFive(BareFixMatch):
    """FixMatch, Pi-Model (arXiv 1610.02242), logit adjustment (arXiv 2007.07314), label smoothing
    and averaged weights in one step, each by its published formula; every term is logged."""

    def __init__(self, assembly: Assembly, folder: Path, device: str, free: bool = False):
        super().__init__(assembly, folder, device, free)
        methods, data = assembly.composition.methods, assembly.datamodule
        self.epsilon, self.tau = methods["label_smoothing"].epsilon, methods["logit_adjustment"].tau  # type: ignore
        counts = data.class_counts().to(device)
        self.log_prior = ClassStatistics({"label": counts}).log_prior("label").to(device)
        fraction = data.sizes["labeled"] / data.sizes["unlabeled"]
        self.weight = methods["pi_model"].weight * fraction  # type: ignore[operator]
        self.ramp = methods["pi_model"].ramp  # type: ignore[union-attr]
        self.sums = torch.zeros(7, device=device)
        self.steps_begun = 0

    def views(self, batch: Batch, step: int) -> Batch:
        labeled, _, unlabeled, truth = batch
        self.steps_begun = step
        return (
            *super().views(batch, step),
            self.weak(labeled, self.draw(step, "labeled/weak2", len(labeled))),
            self.weak(unlabeled, self.draw(step, "unlabeled/weak2", len(unlabeled))),
            truth[:, 0],
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
