"""What losses with a state learn from a survey: the embeddings of all labeled samples."""

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor

from recipes.contract import Clock, Seen, Survey
from recipes.contract.survey import Table
from recipes.networks.embedding import EMBEDDING

T = TypeVar("T")


def embeddings_and_labels(seen: Seen) -> dict[str, Tensor]:
    """The rows of the survey."""
    labels = {f"labels of {task}": values for task, values in seen.targets.items()}
    return {"embedding": seen.logits[EMBEDDING], **labels}


def survey_embeddings(when: Clock) -> Survey:
    """Of equal surveys of several methods one is made."""
    return Survey("embeddings", "labeled", embeddings_and_labels, when)


def every(refresh: int | None, first: float = 0) -> Clock:
    """After `first` steps, and again every `refresh` steps; None: every pass over the labeled
    samples."""
    if refresh is None:
        return Clock.every_pass("labeled", first=first)
    return Clock.every_steps(refresh, first=first)


def surveyed_rows(table: Table, task: str) -> tuple[Tensor, Tensor]:
    """Embeddings [M, d] in float32, and labels [M] of a task, -1 for none, on the host."""
    return table["embedding"].float(), table[f"labels of {task}"]


class HostCopy(Generic[T]):
    """What was read from a buffer to the host, until the buffer changes or is moved or loaded: an
    order asks for it in every batch, and may not wait for a device each time."""

    def __init__(self) -> None:
        self._read: tuple[Tensor, int, T] | None = None

    def of(self, buffer: Tensor, read: Callable[[], T]) -> T:
        if self._read is not None:
            before, version, value = self._read
            if before is buffer and version == buffer._version:
                return value
        value = read()
        self._read = (buffer, buffer._version, value)
        return value
