"""A measurement that can be added to the evaluation of any recipe."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from recipes.contract.composition import Composition
from recipes.contract.environment import Environment
from recipes.contract.exhibit import Exhibit

if TYPE_CHECKING:
    from recipes.contract.context import Context


class Probe(nn.Module):
    """A measurement in addition to the tasks' own metrics, for any recipe: robust accuracy,
    retrieval.

    It is configured by a node with `_target_` under `evaluate`. The reported network is in
    evaluation mode; gradients are disabled, and a probe may enable them.

    parts: the evaluations it runs in, of `val` and `test`.
    main: the metric to `monitor` in a run without accuracy; empty if none is suitable.
    """

    main: ClassVar[str] = ""
    parts: ClassVar[tuple[str, ...]] = ("val", "test")
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kinds" in vars(cls):  # its name in version 0.1
            cls.modalities = cls.kinds  # type: ignore[attr-defined]

    def check(self, environment: Environment) -> None:
        """Raise UserError if the probe cannot measure such data; before they are read."""

    def refusal(self, composition: Composition) -> str:
        """Why its result is invalid with these methods, with the remedy; empty if it is valid."""
        return ""

    def metric_names(self, tasks: Sequence[str]) -> list[str] | None:
        """The names of `compute` for these tasks, for a check of `monitor` before the run; None if
        they are known only then."""
        return None

    def build(self, context: "Context") -> None:
        """Called once, when the tasks of the run are known and before it trains. UserError if the
        probe cannot measure them."""

    def update(
        self, context: "Context", view: Any, targets: dict[str, Tensor], index: Tensor
    ) -> None:
        """Add a batch of raw views with targets by task and their stable indices [N]."""

    def see_gallery(
        self, context: "Context", view: Any, targets: dict[str, Tensor], index: Tensor
    ) -> None:
        """A batch of the gallery, before the queries come to `update`; only of sets that have one.
        A sample that is in both has the same index."""

    def see_cameras(self, cameras: Tensor, index: Tensor) -> None:
        """The cameras [N] that took some samples, by their stable indices [N]: before these come to
        `see_gallery` or `update`, only of sets that know them."""

    def compute(self) -> dict[str, Tensor]:
        """Values by name, over all batches and ranks; logged as `PART/NAME`."""
        return {}

    def reset(self) -> None:
        """Remove all batches."""

    def describe(self) -> str:
        """How it measures, for the report: what its numbers cannot be read without. Empty: nothing
        to add."""
        return ""

    def exhibit(self) -> Exhibit | None:
        """Samples of the last evaluation for the report; None if it shows none."""
        return None
