"""What the methods share that keep a label for every training sample: which labels are given, the
steps before the others are made, and means over a whole batch."""

from torch import Tensor

from foundation.errors import UserError
from recipes.contract import Clock, Seen, Survey
from recipes.step import Step

LABELS = "labels"


def targets_of(seen: Seen) -> dict[str, Tensor]:
    return dict(seen.targets)


# the unlabeled stream delivers true labels for diagnostics, so it cannot say which ones are given
LABELS_SURVEY = Survey(LABELS, "labeled", targets_of, Clock.at_start(), network="none")


def check_warmup(key: str, clock: Clock, total: int) -> None:
    """Raise UserError if a run of `total` steps ends before the first time of a clock. total: 0:
    not trained."""
    first = clock.first_step(total)
    if total and first >= total:
        raise UserError(
            f"methods.{key}.warmup={clock.first:g}",
            f"leaves none of the run's {total} steps to the pseudo-labels",
            "lower it, or raise trainer.max_steps",
        )


def in_warmup(clock: Clock, step: Step) -> bool:
    """Whether a step comes before the first time of a clock."""
    return step.progress.step < clock.first_step(step.progress.total)


def share_of_batch(step: Step, stream: str) -> float:
    """The samples of a stream over those of the labeled and the unlabeled stream."""
    sizes = {name: step.streams[name].size for name in ("labeled", "unlabeled")}
    return sizes[stream] / sum(sizes.values())
