"""Black-box attack by transfer from a proxy network. Liu et al., Delving into Transferable
Adversarial Examples and Black-box Attacks, ICLR 2017, arXiv 1611.02770; the proxy's augmentation
after Papernot et al., Practical Black-Box Attacks against Machine Learning, ASIA CCS 2017, arXiv
1602.02697."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from foundation.errors import UserError
from foundation.types import Count
from methods.adversarial.attacks.attack import Attack, Draws, Queried, QueryAttack, Victim
from methods.adversarial.attacks.dim import DIM
from methods.adversarial.attacks.fgsm import FGSM
from methods.adversarial.attacks.losses import Model
from methods.adversarial.attacks.mi_fgsm import MIFGSM
from methods.adversarial.attacks.ni_fgsm import NIFGSM
from methods.adversarial.attacks.pgd import PGD
from methods.adversarial.attacks.proxy import (
    Fit,
    Proxy,
    QueryOnly,
    fitted_by_queries,
    fitted_to_labels,
    of_run,
)
from methods.adversarial.attacks.threat import Norm, Radius, Threat, radius
from recipes.contract.environment import Environment

Source = Literal["query", "train_data"]
Labels = Literal["hard", "soft"]
Transferred = Literal["mi_fgsm", "ni_fgsm", "dim", "pgd", "fgsm"]
TRAINING_SAMPLES = 10_000  # most that a proxy without queries is trained on


def white_box(name: Transferred, steps: int) -> Attack:
    """The attack on the proxy."""
    made: dict[str, Attack] = {
        "mi_fgsm": MIFGSM(steps),
        "ni_fgsm": NIFGSM(steps),
        "dim": DIM(steps),
        "pgd": PGD(steps),
        "fgsm": FGSM(),
    }
    return made[name]


class BlackBox(QueryAttack):
    """x' = A(g, x, y), an attack A by the gradients of a proxy network g, handed to the target f,
    which only answers: g is trained on training pictures with the answers of f, in rounds that
    double them by x + λ sign(∇ₓ g_y(x)).

    After every round the samples that are still classified correctly are attacked again, so success
    is known by the number of queries. The answers are shared by all samples: a sample's queries are
    those that its proxy was trained on, and one for each time it was tried.

    proxy: labels of the proxy: the target's answers, `query`, or true ones, `train_data`. These are
        of up to
        10,000 training samples, `train_data`, without queries.
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

    modalities: ClassVar[tuple[str, ...]] = ("image",)
    images_only: ClassVar[str] = "BlackBox trains a network on pictures"

    def __init__(
        self,
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
    ):
        self.proxy = proxy
        self.run = run
        self.queries = queries
        self.rounds = rounds
        self.augment = radius(augment)
        self.labels = labels
        self.passes = passes
        self.width = width
        self.transfer = white_box(transfer, steps)
        self.steps = steps
        # a proxy of its own is trained before the first sample is attacked
        self.in_training = run is not None
        self.proxies: list[Proxy] = []

    @property
    def asks(self) -> bool:
        """Whether proxies are trained on the target's answers."""
        return self.run is None and self.proxy == "query"

    @property
    def pictures(self) -> int:
        """The training samples that a proxy begins with; none for that of a run."""
        if self.run is not None:
            return 0
        return self.queries // 2**self.rounds if self.asks else TRAINING_SAMPLES

    def budgets(self) -> list[int]:
        if not self.asks:
            return [1]
        return [self.pictures * 2**number + number + 1 for number in range(self.rounds + 1)]

    def check(self, key: str, norm: Norm, environment: Environment) -> None:
        super().check(key, norm, environment)
        if not self.pictures and self.run is None:
            problem = (
                f"got {self.queries}, which {self.rounds} doublings do not leave one picture of"
            )
            remedy = f"expected at least {2**self.rounds}, or fewer {key}.rounds"
            raise UserError(f"{key}.queries", problem, remedy)
        if self.run is not None:
            from recipes.predict.loading import find_run

            try:
                find_run(self.run)
            except UserError as error:
                raise error.about(f"{key}.run") from error

    def fit(
        self,
        target: Model,
        x: Tensor,
        targets: Mapping[str, Tensor],
        classes: Mapping[str, int],
        seed: int,
    ) -> QueryOnly:
        """Train the proxies. x: `pictures` training samples, with their labels, which `query` does
        not read. Returns the target, which has counted its answers."""
        fit = Fit(self.passes, self.width, seed)
        only = QueryOnly(target)
        if self.asks:
            hard = self.labels == "hard"
            self.proxies = list(fitted_by_queries(only, x, self.rounds, self.augment, hard, fit))
        else:
            self.proxies = [fitted_to_labels(x, targets, classes, fit)]
        return only

    def queried(self, victim: Victim, threat: Threat, draw: Draws) -> Queried:
        if not self.proxies and self.run is not None:
            self.proxies = [self.of_run(victim)]
        answers = QueryOnly(victim.logits)
        margin = Victim(answers, victim.x, victim.targets).objective("margin")
        x = victim.x.detach().float()
        queries = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        success = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for tries, proxy in enumerate(self.proxies, 1):
            point = self.transfer(Victim(proxy.model, victim.x, victim.targets), threat, draw)
            x = torch.where(success.view(-1, *[1] * (x.ndim - 1)), x, point)
            queries = torch.where(success, queries, proxy.queries + tries)
            success = success | (margin(x) >= 0)
        return Queried(x, queries, success)

    def of_run(self, victim: Victim) -> Proxy:
        assert self.run is not None
        with torch.no_grad():
            classes = {t: z.shape[1] for t, z in victim.logits(victim.x[:1]).items()}
        known = {task: classes[task] for task in victim.targets}
        return of_run(self.run, "attack.run", known, victim.x.device)
