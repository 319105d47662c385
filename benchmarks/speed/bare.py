"""Training as an expert writes it by hand: plain loops without a framework, whose losses are
bit-equal to ours.

They share with Roux the network, the view functions, the order of samples and, so that losses can
be compared, the keyed random numbers and the form of the mean (torch's fused mean of the
cross-entropy adds up in another order, so its last bit differs). `free` drops both: one running
generator and the fused mean, as one writes a loop that need not agree with another. The difference
is the price of randomness that a resumed run repeats.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.clock import Clock
from datamodules.samplers import ShuffledPasses
from foundation.randomness import Draw, generator
from recipes.setup.assemble import Assembly
from recipes.step import Embedded

Batch = tuple[Tensor, ...]
LOG_EVERY = 10


class Bare:
    """Supervised training: weak view, cross-entropy, SGD with Nesterov momentum, the loss logged
    every 10 steps."""

    def __init__(self, assembly: Assembly, folder: Path, device: str, free: bool = False):
        self.seed = assembly.config.seed
        self.total = assembly.trainer.max_steps
        self.device = device
        self.data = assembly.datamodule
        self.running = generator(self.seed, device=device) if free else None
        self.weak, self.strong = self.data.views["weak"], self.data.views["strong"]
        self.network = assembly.build_network(self.data.tasks).to(device)
        self.rate = assembly.optimizer.lr
        parameters = list(self.network.parameters())
        decay = assembly.optimizer.weight_decay
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        form = {"fused": True} if device == "cuda" else {"foreach": True}
        self.optimizer = torch.optim.SGD(groups, lr=self.rate, momentum=0.9, nesterov=True, **form)
        self.orders = {}
        for name in self.data.batch_sizes():
            self.orders[name] = ShuffledPasses(len(self.data.parts[name]), self.seed, name)
        self.losses: list[Tensor] = []
        self.sum = torch.zeros((), device=device)
        self.file = (folder / "bare.csv").open("w")

    # -- data --------------------------------------------------------------------------------------
    def batch(self, step: int) -> Batch:
        """The samples and labels of a step, stream by stream, on the host."""
        found: list[Tensor] = []
        for name, size in self.data.batch_sizes().items():
            part = self.data.parts[name]
            rows = self.orders[name].take(step * size, (step + 1) * size)
            pixels = part.source.pixels.index_select(0, part.rows[rows])
            found += [pixels, part.targets["label"].index_select(0, rows)]
        return tuple(found)

    def to_device(self, batch: Batch) -> Batch:
        if self.device == "cpu":
            return batch
        return tuple(part.to(self.device, non_blocking=True) for part in batch)

    def draw(self, step: int, key: str, rows: int) -> Callable[[str], Draw]:
        """Random numbers of one view of one stream."""

        def drawn(purpose: str) -> Draw:
            source = self.running
            if source is None:
                source = generator(self.seed, step, f"{key}/{purpose}", device=self.device)
            return Draw(source, rows, slice(rows), self.device)

        return drawn

    # -- the step ----------------------------------------------------------------------------------
    def views(self, batch: Batch, step: int) -> Batch:
        pixels, labels = batch
        return self.weak(pixels, self.draw(step, "labeled/weak", len(pixels))), labels

    def forward(self, x: Tensor) -> Tensor:
        return self.network(Embedded(x)).logits["label"]

    def objective(self, views: Batch) -> Tensor:
        x, y = views
        return self.cross_entropy(self.forward(x), y)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.running is not None:
            return F.cross_entropy(logits, labels)
        return F.cross_entropy(logits, labels, reduction="none").mean()

    def loss(self, batch: Batch, step: int) -> Tensor:
        return self.objective(self.views(batch, step))

    def factor(self, step: int) -> float:
        """Of the base rate."""
        return 1.0

    def update(self, step: int) -> None:
        rate = self.rate * self.factor(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    def average(self, step: int) -> None:
        """Nothing to average here."""

    def log(self, step: int, loss: Tensor) -> None:
        self.sum += loss.detach()
        if (step + 1) % LOG_EVERY == 0:
            rate = self.optimizer.param_groups[0]["lr"]
            self.file.write(f"{step + 1},{self.sum.item() / LOG_EVERY!r},{rate!r}\n")
            self.file.flush()
            self.sum.zero_()

    def run(self, clock: Clock) -> None:
        """The loop."""
        for step in range(self.total):
            clock.mark()
            batch = self.to_device(self.batch(step))
            loss = self.loss(batch, step)
            loss.backward()
            self.update(step)
            self.average(step)
            self.log(step, loss)
            self.losses.append(loss.detach())
        self.file.close()


class BareFixMatch(Bare):
    """FixMatch (arXiv 2001.07685): one forward over labeled, weak and strong views, a cosine,
    averaged weights."""

    threshold, decay = 0.95, 0.99

    def __init__(self, assembly: Assembly, folder: Path, device: str, free: bool = False):
        super().__init__(assembly, folder, device, free)
        averaged = assembly.build_network(assembly.datamodule.tasks)
        averaged.to(device).requires_grad_(False)
        averaged.load_state_dict(self.network.state_dict())
        self.averaged = averaged
        self.shadow, self.weights = list(averaged.parameters()), list(self.network.parameters())
        self.copies, self.buffers = list(averaged.buffers()), list(self.network.buffers())

    def views(self, batch: Batch, step: int) -> Batch:
        labeled, labels, unlabeled, _ = batch
        return (
            self.weak(labeled, self.draw(step, "labeled/weak", len(labeled))),
            labels,
            self.weak(unlabeled, self.draw(step, "unlabeled/weak", len(unlabeled))),
            self.strong(unlabeled, self.draw(step, "unlabeled/strong", len(unlabeled))),
        )

    def objective(self, views: Batch) -> Tensor:
        labeled, labels, weak, strong = views
        sizes = [len(labeled), len(weak), len(strong)]
        logits, believed, taught = self.forward(torch.cat([labeled, weak, strong])).split(sizes)
        with torch.no_grad():
            certainty, guess = believed.softmax(1).max(1)
            mask = (certainty >= self.threshold).float()
        consistency = (F.cross_entropy(taught, guess, reduction="none") * mask).mean()
        return self.cross_entropy(logits, labels) + consistency

    def factor(self, step: int) -> float:
        return math.cos(7.0 * math.pi * (step / self.total) / 16.0)

    @torch.no_grad()
    def average(self, step: int) -> None:
        decay = min(1.0 - 1.0 / (step + 2), self.decay)
        torch._foreach_lerp_(self.shadow, self.weights, 1.0 - decay)
        torch._foreach_copy_(self.copies, self.buffers)


class Batches:
    """The batches of a bare loop, for Lightning."""

    def __init__(self, bare: Bare):
        self.bare = bare

    def __len__(self) -> int:
        return self.bare.total

    def __iter__(self) -> Iterator[Batch]:
        return map(self.bare.batch, range(self.bare.total))


class BareLightning(pl.LightningModule):
    """The same step inside the least LightningModule: the difference to the bare loop is
    Lightning's own."""

    def __init__(self, bare: Bare, clock: Clock):
        super().__init__()
        self.network = bare.network
        self.bare = bare
        self.clock = clock

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.clock.mark()
        self.present = self.bare.loss(batch, batch_idx)
        return self.present

    def configure_optimizers(self) -> OptimizerLRScheduler:
        scheduler = LambdaLR(self.bare.optimizer, self.bare.factor)
        return {
            "optimizer": self.bare.optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        self.bare.average(step)
        self.bare.log(step, self.present.detach())
