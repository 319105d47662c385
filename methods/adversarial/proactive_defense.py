"""Proactive defense: rounds of attacking the network as it is and training it on what was found,
the form in which surveys describe adversarial training. Goodfellow, Shlens and Szegedy, Explaining
and Harnessing Adversarial Examples, ICLR 2015, arXiv 1412.6572; with `refresh=step` it is the
min-max form of Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR
2018, arXiv 1706.06083."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from foundation.distributed import world_size
from foundation.randomness import SampleRandomness
from foundation.types import Count
from methods.adversarial.attacks.attack import Attack, Draws
from methods.adversarial.attacks.losses import Loss, check_loss, objective
from methods.adversarial.attacks.pgd import PGD
from methods.adversarial.attacks.threat import Norm, Radius, radius
from methods.adversarial.perturbation import LAST, PRECISIONS, ByAttack, add_delta, model_of
from recipes.contract import Context, Declaration, Snapshot
from recipes.step import Input, Step
from recipes.step.criterion import label_mass

ATTACKED = "attacked"  # the network of the start of a round


def round_of(step: int, steps: float) -> int:
    """The number of the round that an optimizer step belongs to; steps: of a round, at least 1."""
    # a step that begins at the very end of a round belongs to the next one
    return int((step + 1e-6) / max(steps, 1.0))


class ProactiveDefense(ByAttack):
    """For rounds t = 0, 1, …: x' = A(f_t, x, y), f_t the network at the start of the round; train
    on (x', y) for `passes` over the labeled samples.

    The attack is made when a sample comes, on its augmented view, with random numbers of (round,
    sample). It raises the loss of raw logits, in evaluation mode. A network that is hardened
    against one attack is open to others: evaluate with another one. `refresh=step` attacks the
    current network instead, which is pgd_at, bit for bit, and the better defense; rounds are for
    attacks that are slow or have no gradient. `methods.proactive_defense.attack=NAME` puts another
    attack in the place of PGD, with settings of its own; steps, step_size and random_start are then
    not used.

    refresh: network that is attacked: that at the start of the `round` or of the `step`.
    passes: of a round over the labeled samples, above 0; 1.
    data: samples of the loss: `adv`, the attacked ones, or `clean_and_adv`, the mean of both.
    norm: norm of the ball, over all entries of a sample: `linf` or `l2`.
    eps: radius of the ball in pixels of [0, 1], a number or a fraction; 8/255.
    steps: steps of PGD, at least 1; 10.
    step_size: length a of a step; null: eps/4.
    random_start: start at a random point of the ball; false: at the sample.
    loss: loss that the attack raises: `ce`, `margin` or `dlr` (from three classes).
    attack: another attack of the group `attack`, e.g. `one_pixel`; null: PGD with the settings
        above.
    """

    neutral = {"eps": 0}

    def __init__(
        self,
        refresh: Literal["round", "step"] = "round",
        passes: Annotated[float, Field(gt=0)] = 1.0,
        data: Literal["adv", "clean_and_adv"] = "adv",
        norm: Norm = "linf",
        eps: Radius = "8/255",
        steps: Count = 10,
        step_size: Radius | None = None,
        random_start: bool = True,
        loss: Loss = "ce",
        attack: Attack | None = None,
    ):
        super().__init__(PGD(steps, step_size, random_start), attack)
        self.refresh = refresh
        self.passes = passes
        self.data = data
        self.norm = norm
        self.eps = radius(eps)
        self.loss = loss

    def declare(self) -> Declaration:
        return Declaration(
            slots=("attack",),
            tags=("attacks_labeled",),
            after=LAST,
            precisions=PRECISIONS,
            lower_on_collapse=("eps",),
            networks={ATTACKED: Snapshot()} if self.refresh == "round" else {},
        )

    def implements(self, point: str) -> bool:
        """Terms are added only beside the clean loss."""
        return super().implements(point) and (point != "terms" or self.data == "clean_and_adv")

    def build(self, context: Context) -> None:
        super().build(context)
        check_loss(f"methods.{self.key}", self.loss, context.tasks)

    # -- the attack --------------------------------------------------------------------------------
    def round_steps(self, step: Step, context: Context) -> float:
        """Optimizer steps of a round, of which a stream's pass need not have a whole number."""
        micro_batch = step.streams["labeled"].size * world_size()
        batch = micro_batch * context.trainer.accumulate_grad_batches
        return self.passes * context.sizes["labeled"] / batch

    def begin_round(self, step: Step, context: Context) -> None:
        """Copy the weights in the first step of a round. All micro-batches of that step copy the
        same ones; a second pass over a batch (SAM, AWP) has other weights, and copies none."""
        if self.refresh == "step" or step.replay:
            return
        now = step.progress.step
        steps = self.round_steps(step, context)
        if not now or round_of(now, steps) != round_of(now - 1, steps):
            context.refresh(ATTACKED)

    def draws(self, entry: Input, step: Step) -> Draws:
        """Of pgd_at where it is pgd_at; else of the sample in this round."""
        if self.refresh == "step":
            return lambda purpose: step.randomness.draw(f"pgd_at/{purpose}", entry.size)
        number: int = step.scratch[f"{self.key}/round"]
        if entry.size != step.streams["labeled"].size:  # another method has several views of each
            return lambda purpose: step.randomness.draw(f"{self.key}/{purpose}", entry.size)
        randomness = SampleRandomness(step.randomness.seed, step.streams["labeled"].index)
        return lambda purpose: randomness.draw(f"{self.key}/{number}/{purpose}")

    def craft(self, entry: Input, step: Step, context: Context) -> Tensor:
        if self.refresh == "round":
            number = round_of(step.progress.step, self.round_steps(step, context))
            step.scratch[f"{self.key}/round"] = number
        network = "student" if self.refresh == "step" else ATTACKED
        model = model_of(context, entry.embedded, network)
        value = objective(model, entry.targets, self.loss)
        return self.perturbation(entry, step, context, value, model=model)

    # -- in a step ---------------------------------------------------------------------------------
    def prepare(self, step: Step, context: Context) -> None:
        self.begin_round(step, context)
        entry = step.inputs["labeled"]
        attacked = add_delta(entry.embedded, self.delta(step, context))
        if self.data == "adv":
            step.change("labeled", embedded=attacked)
        else:
            step.add(Input(self.key, attacked, entry.targets))

    def terms(self, step: Step, context: Context) -> None:
        """½ of the clean loss, ½ of that of the attacked samples."""
        for task, target in step.inputs[self.key].targets.items():
            name = step.term_name("supervised", task)
            if name not in step.terms:
                continue
            clean = step.terms[name]
            half = 0.5 * clean.weight
            step.terms[name] = replace(clean, weight=half)
            # a missing label is -1, or a row of zeros once targets are dense
            labels = label_mass(target)
            step.term(
                step.term_name(self.key, task),
                step.classify(self.key, task, "labeled"),
                weight=half,
                mask=labels > 0,
                counts=labels,
                denominator=clean.denominator,
                task=task,
            )
