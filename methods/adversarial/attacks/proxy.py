"""Proxy networks: trained on what a target answers, and attacked in its place. The augmentation is
of Papernot et al., Practical Black-Box Attacks against Machine Learning, ASIA CCS 2017, arXiv
1602.02697."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.randomness import generator, own_draws
from methods.adversarial.attacks.losses import Logits, Model
from recipes.step import Embedded
from recipes.step.criterion import cross_entropy, one_hot

Answers = dict[str, Tensor]  # by task: probabilities [n, C], or one class with probability 1
BATCH = 64
AT_ONCE = 256  # pictures of a query
RATE = 1e-3  # of Adam


class QueryOnly:
    """A model that answers and has no gradient.

    asked: the number of samples that it has answered for.
    """

    def __init__(self, model: Model):
        self.model = model
        self.asked = 0

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Logits:
        if x.requires_grad:
            raise RuntimeError("the target of a black-box attack has no gradient")
        self.asked += len(x)
        return {task: logits.detach() for task, logits in self.model(x).items()}


class ProxyNetwork(nn.Module):
    """Three 3×3 convolutions, the last two with stride 2, pooled to 2×2 cells; a linear head a
    task. It has neither batch statistics nor dropout, since its sets are small.

    shape: (C, H, W). classes: by task.
    """

    def __init__(self, shape: torch.Size, classes: Mapping[str, int], width: int = 32):
        super().__init__()
        channels, *sides = shape
        # a side of one pixel is not halved
        strides = [2 if min(sides) >= 4 else 1, 2 if min(sides) >= 8 else 1]
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, strides[0], 1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, strides[1], 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.heads = nn.ModuleDict({t: nn.Linear(8 * width, c) for t, c in classes.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(2 * x - 1)
        return {task: head(features) for task, head in self.heads.items()}


@dataclass(frozen=True)
class Proxy:
    """model: x -> logits by task. queries: answers of the target that it was trained on."""

    model: Model
    queries: int


@dataclass(frozen=True)
class Fit:
    """How proxies are trained. passes: over the set. width: of the network. seed: of weights and
    order."""

    passes: int
    width: int
    seed: int

    def proxy(self, x: Tensor, answers: Answers, queries: int) -> Proxy:
        """A network trained from new weights on pictures [n, C, H, W]."""
        classes = {task: answer.shape[1] for task, answer in answers.items()}
        with own_draws(self.seed, "proxy", device=x.device):
            network = ProxyNetwork(x.shape[1:], classes, self.width).to(x.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        source = generator(self.seed, "proxy/order")
        with torch.enable_grad():
            for _ in range(self.passes):
                for rows in torch.randperm(len(x), generator=source).to(x.device).split(BATCH):
                    logits = network(x[rows])
                    losses = [cross_entropy(logits[t], answers[t][rows]).mean() for t in classes]
                    optimizer.zero_grad()
                    torch.stack(losses).sum().backward()
                    optimizer.step()
        return Proxy(network.eval().requires_grad_(False), queries)


def asked(target: QueryOnly, x: Tensor, hard: bool) -> Answers:
    """What the target answers: probabilities, or with `hard` the class alone."""
    parts: dict[str, list[Tensor]] = {}
    for some in x.split(AT_ONCE):
        for task, logits in target(some).items():
            answer = one_hot(logits.argmax(1), logits.shape[1]) if hard else logits.softmax(1)
            parts.setdefault(task, []).append(answer.float())
    return {task: torch.cat(answers) for task, answers in parts.items()}


def augmented(model: Model, x: Tensor, answers: Answers, step: float) -> Tensor:
    """x + λ sign(∇ₓ g_y(x)), y the class that the target answered: points near which the target's
    answer tells most about its boundary."""
    found = []
    for rows in torch.arange(len(x), device=x.device).split(AT_ONCE):
        with torch.enable_grad():
            leaf = x[rows].detach().requires_grad_()
            logits = model(leaf)
            own = [
                logits[t].gather(1, answers[t][rows].argmax(1, keepdim=True)).sum() for t in answers
            ]
            (gradient,) = torch.autograd.grad(torch.stack(own).sum(), leaf)
        found.append((x[rows] + step * gradient.sign()).clamp(0, 1))
    return torch.cat(found)


def fitted_by_queries(
    target: QueryOnly, x: Tensor, rounds: int, step: float, hard: bool, fit: Fit
) -> Iterator[Proxy]:
    """A proxy from the answers for the pictures, and after each round, which doubles them by
    `augmented`, another one. Every picture is asked about once."""
    answers = asked(target, x, hard)
    yield (proxy := fit.proxy(x, answers, len(x)))
    for _ in range(rounds):
        new = augmented(proxy.model, x, answers, step)
        more = asked(target, new, hard)
        x = torch.cat([x, new])
        answers = {task: torch.cat([answers[task], more[task]]) for task in answers}
        yield (proxy := fit.proxy(x, answers, len(x)))


def fitted_to_labels(
    x: Tensor, targets: Mapping[str, Tensor], classes: Mapping[str, int], fit: Fit
) -> Proxy:
    """A proxy from true labels; a missing one has no loss. It needs no answer of the target."""
    return fit.proxy(x, {task: one_hot(targets[task], classes[task]) for task in classes}, 0)


def of_run(run: str, key: str, classes: Mapping[str, int], device: torch.device) -> Proxy:
    """The network that a finished run reports. UserError where it has other tasks."""
    # not at the top: `load` builds recipes, which import methods
    from recipes.predict.loading import load

    try:
        predictor = load(run, device=device)
    except UserError as error:
        raise error.about(key) from error
    found = {task: len(names) for task, names in predictor.classes_by_task.items()}
    if any(found.get(task) != count for task, count in classes.items()):
        raise UserError(key, f"'{run}' has the classes {found}", f"expected {dict(classes)}")
    predictor.requires_grad_(False)
    return Proxy(lambda x: predictor.recipe.predict(Embedded(x)), 0)
