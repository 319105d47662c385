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
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.clock import Clock, time_optimizer
from datamodules.samplers import ShuffledPasses
from datamodules.source import Source
from foundation.randomness import Draw, generator
from recipes.runs.assembly import Assembly
from recipes.step import Embedded

Batch = tuple[Tensor, ...]
Stream = tuple[Callable[[Tensor], Tensor], Tensor, ShuffledPasses, int]
MOMENTUM, LOG_EVERY = 0.9, 10


class Bare:
    """Supervised training: weak view, cross-entropy, SGD with Nesterov momentum, the loss logged
    every 10 steps."""

    def __init__(self, assembly: Assembly, folder: Path, device: str, free: bool = False):
        self.seed, self.total = assembly.config.seed, assembly.trainer.max_steps
        self.device, self.assembly = device, assembly
        self.running = generator(self.seed, device=device) if free else None
        data = assembly.datamodule
        self.weak, self.strong = data.views["weak"], data.views["strong"]
        self.network = assembly.build_network(data.tasks)
        for method in assembly.composition.implementing("surgery"):
            method.surgery(self.network)
        self.network.to(device)
        self.streams = [self.stream(name, size) for name, size in data.batch_sizes().items()]
        self.rate = assembly.optimizer.lr
        learns = [p for p in self.network.parameters() if p.requires_grad]
        matrices = [p for p in learns if p.ndim > 1]
        vectors = [p for p in learns if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": assembly.optimizer.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        form = {"fused": True} if device == "cuda" else {"foreach": True}
        settings = {"lr": self.rate, "momentum": MOMENTUM, "nesterov": True}
        self.optimizer = torch.optim.SGD(groups, **settings, **form)
        self.losses: list[Tensor] = []
        self.sum = torch.zeros((), device=device)
        self.file = (folder / "bare.csv").open("w")

    # -- data --------------------------------------------------------------------------------------
    def stream(self, name: str, size: int) -> Stream:
        """Samples and labels by row, the order of rows, and how many of them are in a batch."""
        part = self.assembly.datamodule.parts[name]
        labels = torch.stack(list(part.targets.values()), 1)
        if part.source.nbytes is None:  # files, decoded as they come
            samples: Callable[[Tensor], Tensor] = partial(decoded, part.source, part.rows)
        else:
            samples = partial(part.source.pixels[part.rows].index_select, 0)
        return samples, labels, ShuffledPasses(len(part), self.seed, name), size

    def batch(self, step: int) -> Batch:
        """The samples of a step, on the host."""
        found: list[Tensor] = []
        for samples, labels, order, size in self.streams:
            rows = order.take(step * size, (step + 1) * size)
            found += [samples(rows), labels.index_select(0, rows)]
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
        return self.weak(pixels, self.draw(step, "labeled/weak", len(pixels))), labels[:, 0]

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

    def backward(self, loss: Tensor) -> None:
        loss.backward()

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
            self.backward(loss)
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
            labels[:, 0],
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


def decoded(source: Source, rows: Tensor, chosen: Tensor) -> Tensor:
    """Pictures of files, [B, C, H, W]."""
    pictures: Tensor = source.fetch(rows[chosen])
    return pictures


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
        self.network, self.bare, self.clock, self.steps_done = bare.network, bare, clock, 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.clock.mark()
        self.present = self.bare.loss(batch, batch_idx)
        return self.present

    def backward(self, loss: Tensor, *args: object, **kwargs: object) -> None:
        self.bare.backward(loss)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        scheduler = LambdaLR(self.bare.optimizer, self.bare.factor)
        if self.clock.sections is not None:
            time_optimizer(self, self.bare.optimizer, self.clock.sections)
        return {
            "optimizer": self.bare.optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def optimizer_step(self, *args: object, **kwargs: object) -> None:
        super().optimizer_step(*args, **kwargs)  # type: ignore[arg-type]
        self.bare.average(self.steps_done)
        self.bare.log(self.steps_done, self.present.detach())
        self.steps_done += 1
