"""The steps that `multi_task.py` times: ours, the plain sum, torchjd's and a loop of T backwards,
of one network."""

from collections.abc import Callable
from functools import reduce
from operator import add
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.randomness import Randomness
from methods.multi_task.mgda import MGDA, min_norm
from methods.multi_task.nash_mtl import NashMTL, bargain
from methods.multi_task.pcgrad import PCGrad, projected_weights
from methods.multi_task.weighting import GramWeighting
from recipes.networks.network import Network
from recipes.step import Embedded, Progress, Step
from recipes.step.criterion import Criterion

try:
    from torchjd import aggregation
    from torchjd.autojac import jac_to_grad, mtl_backward
except ImportError:
    aggregation = None

CLASSES = 10
METHODS: dict[str, Callable[[str], GramWeighting]] = {
    "mgda": lambda source: MGDA(grad_source=source),
    "pcgrad": lambda source: PCGrad(grad_source=source),
    "nash_mtl": lambda source: NashMTL(grad_source=source, max_norm=0.0),
}


class Small(Network):
    """`mlp`: 512 numbers through two layers of 1024; `conv`: pictures 3 x 32 x 32 through three
    convolutions."""

    kind = "image"

    def __init__(self, name: str, tasks: list[str]):
        width = 256 if name == "mlp" else 128
        super().__init__(width, dict.fromkeys(tasks, CLASSES))
        self.shape = (512,) if name == "mlp" else (3, 32, 32)
        if name == "mlp":
            layers = [nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU()]
            layers += [nn.Linear(1024, width)]
        else:
            layers = [nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()]
            layers += [nn.Conv2d(64, width, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.backbone = nn.Sequential(*layers, nn.ReLU())

    def embed(self, view: Tensor) -> Embedded:
        return Embedded(view)

    def features(self, embedded: Embedded) -> Tensor:
        return self.backbone(embedded.x)

    def example(self) -> Embedded:
        return Embedded(torch.zeros(2, *self.shape))


class Bench:
    """One network, its batch, and everything that makes a step of it."""

    def __init__(self, network: str, method: str, tasks: int, rows: int, device: str):
        torch.manual_seed(0)
        self.tasks, self.method = [f"task{i}" for i in range(tasks)], method
        self.network = Small(network, self.tasks).to(device)
        self.x = torch.randn(rows, *self.network.shape, device=device)
        self.targets = {task: torch.randint(CLASSES, (rows,), device=device) for task in self.tasks}
        self.shared = list(self.network.backbone.parameters())
        self.heads = list(self.network.heads.parameters())
        self.position = 0

    def clear(self) -> None:
        for p in self.network.parameters():
            p.grad = None

    def losses(self) -> tuple[Tensor, list[Tensor]]:
        """Of the hand-written steps: features and the losses of the tasks."""
        self.clear()
        z = self.network.backbone(self.x)
        logits = {task: self.network.heads[task](z) for task in self.tasks}
        return z, [F.cross_entropy(logits[task], self.targets[task]) for task in self.tasks]

    def plain(self) -> None:
        self.network.gates = None
        reduce(add, self.losses()[1]).backward()

    def ours(self, source: str) -> Callable[[], Tensor]:
        """A step of ours without a Trainer around it; it returns the weights."""
        method, modules = METHODS[self.method](source), nn.ModuleDict()
        method.key = self.method
        recipe: Any = SimpleNamespace(network=self.network, method_modules=modules)
        recipe.tasks = dict.fromkeys(self.tasks)
        recipe.parameters = self.network.parameters
        method.build(recipe)
        modules.to(self.x.device)
        gates = self.network.gates

        def call() -> Tensor:
            self.clear()
            self.network.gates = gates
            assert gates is not None
            gates.reset()
            step = self.step()
            output = self.network(Embedded(self.x))
            step.representations.append(output.features)
            for task in self.tasks:
                logits, labels = output.logits[task], self.targets[task]
                step.term(task, F.cross_entropy(logits, labels, reduction="none"), task=task)
            step.losses = {name: term.reduced() for name, term in step.terms.items()}
            method.combine(step, recipe).backward()
            return modules[self.method].weights.clone()

        return call

    def step(self) -> Step:
        """Without views."""
        where = Randomness(0, self.position, device=self.x.device)
        return Step({}, where, None, None, Criterion([]), Progress(0, 1), tuple(self.tasks))

    def loop(self) -> None:
        """T whole backwards, each gradient flattened, then the weighted sum written back; heads
        keep their own."""
        self.network.gates = None
        _, losses = self.losses()
        rows = torch.zeros(len(losses), sum(p.numel() for p in self.shared), device=self.x.device)
        for row, loss in zip(rows, losses, strict=True):
            loss.backward(retain_graph=True)
            row.copy_(torch.cat([p.grad.flatten() for p in self.shared if p.grad is not None]))
            for p in self.shared:
                p.grad = None
        update = self.solved((rows @ rows.T).double()).to(rows) @ rows
        parts = update.split([p.numel() for p in self.shared])
        for p, part in zip(self.shared, parts, strict=True):
            p.grad = part.view_as(p).clone()

    def solved(self, gram: Tensor) -> Tensor:
        if self.method == "mgda":
            return min_norm(gram)
        if self.method == "nash_mtl":
            return bargain(gram)
        draw = self.step().randomness.shared(f"{self.method}/order", len(gram))
        return projected_weights(gram, draw.uniform(len(gram)).argsort(1))

    def torchjd(self, chunk: int | None, aggregator: Any = None) -> Callable[[], None]:
        """chunk: gradients at a time, None for all; with 1 its Gram matrix is computed by tensors,
        to save memory."""
        aggregator = aggregator or theirs(self.method, len(self.tasks))
        lean = chunk == 1 and self.method != "nash_mtl"
        by_tensor = {"optimize_gramian_computation": True} if lean else {}

        def call() -> None:
            self.network.gates = None
            z, losses = self.losses()
            mtl_backward(losses, features=z, parallel_chunk_size=chunk)
            jac_to_grad(self.shared, aggregator, **by_tensor)

        return call

    def weighted(self, weights: Tensor) -> None:
        """The weighted sum of the losses for what is shared; heads keep their own gradients."""
        self.network.gates = None
        losses = self.losses()[1]
        own = torch.autograd.grad(reduce(add, losses), self.heads, retain_graph=True)
        combined = (weights * torch.stack(losses)).sum()
        update = torch.autograd.grad(combined, self.shared)
        for p, gradient in zip([*self.heads, *self.shared], [*own, *update], strict=True):
            p.grad = gradient

    def gradients(self) -> Tensor:
        """Those of the last step, flat."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return torch.cat([gradient.flatten() for gradient in gradients])

    def contenders(self) -> dict[str, Callable[[], Any]]:
        found: dict[str, Callable[[], Any]] = {"plain sum": self.plain}
        found |= {f"ours, {source}": self.ours(source) for source in ("rep", "shared")}
        found["loop of T backwards"] = self.loop
        if aggregation is not None and theirs(self.method, len(self.tasks)) is not None:
            found["torchjd, vectorised"] = self.torchjd(None)
            found["torchjd, one by one"] = self.torchjd(1)
        return found


def theirs(method: str, tasks: int) -> Any:
    """Their aggregator; None where what it needs is not installed."""
    if method != "nash_mtl":
        return {"mgda": aggregation.MGDA, "pcgrad": aggregation.PCGrad}[method]()
    try:
        return aggregation.NashMTL(n_tasks=tasks, max_norm=0.0)
    except ImportError:
        return None
