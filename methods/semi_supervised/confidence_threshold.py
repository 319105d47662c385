"""The base of methods that learn the most probable class of samples above a confidence
threshold."""

from functools import partial

from methods.semi_supervised.targets import Align, Mask, PseudoTargets, confident, make_targets
from recipes.contract import Context, Method
from recipes.step import Step


class ConfidenceThreshold(Method):
    """Pseudo-labels ŷ = argmax q with the mask m = 1[max q ≥ τ]; q is the softmax of raw logits,
    whatever adjusts the logits of the loss."""

    threshold: float

    def idle_settings(self) -> list[str]:
        # no probability is above 1: no sample would be kept
        unreachable = ["threshold"] if self.threshold > 1 else []
        return [*super().idle_settings(), *unreachable]

    def mask(self, task: str, context: Context) -> Mask:
        """The mask of the target pipeline, from confidence and class."""
        return partial(confident, threshold=self.threshold)

    def pseudo_labels(
        self, step: Step, name: str, task: str, context: Context, align: Align | None = None
    ) -> PseudoTargets:
        """Labels [U] and mask from the output `name`, published for alignment and report."""
        mask = self.mask(task, context)
        targets = make_targets(step.logits(name, task), align=align, harden=True, mask=mask)
        step.publish_pseudo_labels(task, targets.pseudo)
        return targets
