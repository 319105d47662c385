"""The base of all attacks, and what an attack is given: a victim, a threat and random numbers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor

from foundation.errors import UserError
from foundation.randomness import RowNumbers
from methods.adversarial.attacks.losses import Loss, Model, Objective, objective
from methods.adversarial.attacks.threat import Norm, Threat
from recipes.contract.environment import Environment

Draws = Callable[[str], RowNumbers]  # purpose -> random numbers, one row per sample


class Victim:
    """What an attacker may query: a model on a fixed batch, and what the attack raises there.

    model: x [N, ...] -> logits [N, C] by task. Rows must not depend on each other.
    x: [N, ...], float32. targets: by task, [N] or [N, C]; a missing label is -1.
    value: what the attack raises, x -> [N]; None: the cross-entropy, summed over tasks.
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        targets: Mapping[str, Tensor],
        value: Objective | None = None,
    ):
        self.logits = model
        self.x = x
        self.targets = targets
        self.value = value or self.objective("ce")

    def objective(self, loss: Loss) -> Objective:
        """The loss of the targets, x -> [N]."""
        return objective(self.logits, self.targets, loss)

    def among(self, rows: Tensor) -> "Victim":
        """The victim on these samples, int64 [n]; a row may come several times."""
        targets = {task: target[rows] for task, target in self.targets.items()}
        return Victim(self.logits, self.x[rows], targets)


class Attack(ABC):
    """(victim, threat, draw) -> x_adv: a point within the threat at which `victim.value` is large,
    detached, float32. An attack has the settings of its algorithm; norm and radius belong to the
    threat, the loss to the victim, so that training and evaluation share one object:

        MIFGSM(steps=10)(Victim(model, x, {"label": y}), Threat("linf", 8 / 255), draw)

    modalities: data that it works on, with the reason why it does not on others.
    norms: norms of the ball that it knows.
    by_gradient: it follows the gradient of any value; otherwise it queries the losses of the
        targets.
    in_training: it works against a network that is being trained.
    """

    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    images_only: ClassVar[str] = ""
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    by_gradient: ClassVar[bool] = True
    in_training = True

    @abstractmethod
    def __call__(
        self, victim: Victim, threat: Threat, draw: Draws, start: Tensor | None = None
    ) -> Tensor:
        """x_adv. start: δ of the first point, in place of the attack's own."""

    def check(self, key: str, norm: Norm, environment: Environment) -> None:
        """Raise UserError where the attack cannot be made on this data. key: of its settings."""
        if environment.kind not in self.modalities:
            problem = f"{self.images_only}, and data={environment.data} is {environment.kind}"
            raise UserError(key, problem, "expected bim, fgsm, mi_fgsm, ni_fgsm or pgd")
        if norm not in self.norms:
            name = type(self).__name__
            raise UserError(key, f"{name} knows {', '.join(self.norms)}", f"got norm={norm}")


class Queried(NamedTuple):
    """What a search by queries found.

    x: [N, …]. queries: int64 [N], of the attacked model, until the sample was misclassified, else
    all that were made. success: bool [N].
    """

    x: Tensor
    queries: Tensor
    success: Tensor


class QueryAttack(Attack):
    """Base of attacks that see only what the model answers. They count its answers by sample."""

    by_gradient: ClassVar[bool] = False

    @abstractmethod
    def queried(self, victim: Victim, threat: Threat, draw: Draws) -> Queried:
        """x_adv with the queries it took."""

    def budgets(self) -> list[int]:
        """Numbers of queries for which success is reported."""
        return []

    def __call__(
        self, victim: Victim, threat: Threat, draw: Draws, start: Tensor | None = None
    ) -> Tensor:
        return self.queried(victim, threat, draw).x


def decades(most: int) -> list[int]:
    """1, 10, 100 … below `most`, and `most`."""
    powers = [10**i for i in range(len(str(most)))]
    return [*(power for power in powers if power < most), most]


def least_side(environment: Environment) -> int | None:
    """The shorter side of the pictures in pixels; None where it is not known before data is
    read."""
    return min(environment.shape[1:]) if environment.shape else None
