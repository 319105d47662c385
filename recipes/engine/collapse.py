"""Notice a run whose predictions fell to one class or to chance, at validations and at its end.

The class counts of an evaluation are on the host already, so no training step is touched.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from recipes.contract.composition import Composition
from recipes.tasks.classification import Task

ONE_CLASS = 0.9  # share of all predictions that go to one class
COMMON = 0.8  # true share of that class from which such predictions are no fault
MOST = 0.6  # share of all predictions that go to one class, late in a run,
TIMES = 5  # where its true share is this many times smaller
EARLIEST = 20  # optimizer steps before which nothing is judged: every network starts at chance
ONE_CLASS_FROM = 0.2  # share of the run after which predictions of one class are a fault
CHANCE_FROM = 0.5  # and accuracy at chance, or most predictions of one class
NEAR_CHANCE = 1.1  # balanced accuracy up to this multiple of 1/C is chance
FEWEST = 30  # samples of a part below which nothing is judged
FALLBACK = "lower optimizer.lr, or train longer (trainer.max_steps)"


@dataclass(frozen=True)
class Counts:
    """What a part says about a task.

    predicted: most frequent prediction, a class index.
    predicted_share: share of the predictions that it has; true_share: share of the labels.
    classes: classes with samples.
    """

    samples: int
    classes: int
    predicted: int
    predicted_share: float
    true_share: float
    largest_share: float
    accuracy: float
    balanced_accuracy: float


def count(class_counts: Tensor) -> Counts | None:
    """What the counts [3, C] of samples, correct ones and predictions of each class say; None
    without samples."""
    support, correct, predictions = class_counts.double()
    samples = int(support.sum())
    if not samples:
        return None
    present = support > 0
    predicted = int(predictions.argmax())
    recall = correct[present] / support[present]
    return Counts(
        samples=samples,
        classes=int(present.sum()),
        predicted=predicted,
        predicted_share=float(predictions[predicted]) / samples,
        true_share=float(support[predicted]) / samples,
        largest_share=float(support.max()) / samples,
        accuracy=float(correct.sum()) / samples,
        balanced_accuracy=float(recall.mean()),
    )


def fault(found: Counts, classes: Sequence[str], done: float) -> str:
    """What is wrong with these predictions after a share `done` of the run; empty if nothing is."""
    if found.samples < FEWEST or found.classes < 2:
        return ""
    share = found.predicted_share
    one_class = done >= ONE_CLASS_FROM and share >= ONE_CLASS and found.true_share < COMMON
    most = done >= CHANCE_FROM and share >= max(MOST, TIMES * found.true_share)
    if found.classes > 2 and (one_class or most):
        return (
            f"{found.predicted_share:.0%} of the predictions are the class "
            f"'{classes[found.predicted]}', which {found.true_share:.0%} of the samples have"
        )
    near = found.balanced_accuracy <= NEAR_CHANCE / found.classes
    if near and found.accuracy <= found.largest_share and done >= CHANCE_FROM:
        return (
            f"accuracy {found.accuracy:.1%} is chance (the largest class alone has "
            f"{found.largest_share:.1%} of the samples)"
        )
    return ""


def remedy(composition: Composition) -> str:
    """The settings to lower, of the methods that say which."""
    settings = []
    for key, declaration in composition.declarations.items():
        for name in declaration.lower_on_collapse:
            value = getattr(composition.methods[key], name, None)
            now = f" (now {value:g})" if isinstance(value, int | float) else ""
            settings.append(f"methods.{key}.{name}{now}")
    return f"lower {' or '.join(settings)}" if settings else FALLBACK


class CollapseWatch:
    """Warn once per task while the run trains, and once at its end.

    tasks: those whose heads are evaluated.
    lines: what the end of the run says, for its page.
    """

    def __init__(self, tasks: Sequence[Task], composition: Composition, total_steps: int):
        self.classes = {task.name: getattr(task, "classes", []) for task in tasks}
        self.composition = composition
        self.total_steps = total_steps
        self.warned: set[str] = set()
        self.lines: list[str] = []

    def faults(self, class_counts: Mapping[str, Tensor], step: int) -> dict[str, str]:
        """By task, what is wrong with its predictions."""
        if step < EARLIEST:
            return {}
        found = {}
        for name, values in class_counts.items():
            counts = count(values)
            text = fault(counts, self.classes[name], step / self.total_steps) if counts else ""
            if text:
                found[name] = text
        return found

    def validated(self, class_counts: Mapping[str, Tensor], step: int) -> list[str]:
        """The lines to print after a validation."""
        lines = []
        for name, text in self.faults(class_counts, step).items():
            if name not in self.warned:
                self.warned.add(name)
                where = f"step {step} of {self.total_steps}, validation{self._of(name)}"
                lines.append(f"{where}: {text}: {remedy(self.composition)}")
        return lines

    def ended(self, class_counts: Mapping[str, Tensor], step: int) -> list[str]:
        """The lines to print after the test, also kept in `lines`."""
        self.lines = [
            f"the run ended with a fault, test{self._of(name)}: {text}: {remedy(self.composition)}"
            for name, text in self.faults(class_counts, step).items()
        ]
        return self.lines

    def _of(self, task: str) -> str:
        return f" of {task}" if len(self.classes) > 1 else ""


def print_warnings(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"warning: {line}", file=sys.stderr, flush=True)
