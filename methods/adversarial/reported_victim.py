"""The reported network as an attack sees it."""

from copy import copy
from functools import partial
from itertools import count, islice

import torch
from torch import Tensor

from foundation.randomness import SampleRandomness
from methods.adversarial.attacks.attack import Draws, Victim
from methods.adversarial.attacks.losses import Loss, Objective, objective
from recipes.contract import Context, Remark
from recipes.step import Embedded


class ReportedVictim(Victim):
    """The reported network with its inference-time changes, in float32, on a fixed batch of
    samples.

    x: [N, ...]. targets: by task. draw: the attacker's random numbers by purpose.
    """

    def __init__(
        self, context: Context, embedded: Embedded, targets: dict[str, Tensor], index: Tensor
    ):
        self.context = context
        self.mask = embedded.mask
        self.index = index
        self.draw: Draws = SampleRandomness(context.seed, index).draw
        super().__init__(self.predicted, embedded.x, targets)

    def predicted(self, x: Tensor) -> dict[str, Tensor]:
        """Logits by task as the evaluation computes them."""
        return self.context.predict(Embedded(x, self.mask), index=self.index)

    def remarks(self, x: Tensor) -> dict[str, Remark]:
        """What methods say about each sample."""
        return self.context.remarks(Embedded(x, self.mask), index=self.index)

    def raising(self, value: Objective) -> "ReportedVictim":
        """This victim for an attack that raises `value`."""
        other = copy(self)
        other.value = value
        return other

    def objective(self, loss: Loss, draws: int = 1) -> Objective:
        """The loss that the attack raises. draws above 1: its mean over random draws of the network
        (expectation over transformation); every call draws anew, since an attacker cannot know the
        draws of the evaluation."""
        if draws == 1:
            return objective(self.logits, self.targets, loss)
        seeds = count(self.context.seed + 1)

        def expected(x: Tensor) -> Tensor:
            values = []
            for seed in islice(seeds, draws):
                randomness = SampleRandomness(seed, self.index)
                model = partial(self._drawn, randomness=randomness)
                values.append(objective(model, self.targets, loss)(x))
            return torch.stack(values).mean(0)

        return expected

    def among(self, rows: Tensor) -> "ReportedVictim":
        """The victim restricted to these samples. rows: int64 [n]."""
        mask = None if self.mask is None else self.mask[rows]
        targets = {task: target[rows] for task, target in self.targets.items()}
        embedded = Embedded(self.x[rows], mask)
        return ReportedVictim(self.context, embedded, targets, self.index[rows])

    def _drawn(self, x: Tensor, randomness: SampleRandomness) -> dict[str, Tensor]:
        return self.context.predict(Embedded(x, self.mask), randomness=randomness)
