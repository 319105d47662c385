"""A measurement that a user adds to the evaluation of any recipe."""

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from recipes.contract.composition import Composition

if TYPE_CHECKING:
    from recipes.contract.context import Context


class Probe(nn.Module):
    """A measurement beside the tasks' own metrics, which a user adds to any recipe: robust
    accuracy, retrieval.

    A node with `_target_` under `evaluate` of the config. It sees the reported network in
    evaluation mode, gradients are off but may be turned on. parts: the evaluations it takes part
    in, of `val` and `test`. main: the value by which a run is judged (`monitor`) that has no
        accuracy; empty where none is fit for it.
    """

    main: ClassVar[str] = ""
    parts: ClassVar[tuple[str, ...]] = ("val", "test")
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kinds" in vars(cls):  # its name in version 0.1
            cls.modalities = cls.kinds  # type: ignore[attr-defined]

    def refusal(self, composition: Composition) -> str:
        """Why it would measure nothing true beside these methods, with the remedy; empty where it
        does."""
        return ""

    def update(
        self, context: "Context", view: Any, targets: dict[str, Tensor], index: Tensor
    ) -> None:
        """Take a batch of raw views with targets by task and their stable indices [N]."""

    def compute(self) -> dict[str, Tensor]:
        """Values by name, over all batches and ranks; logged as `PART/NAME`."""
        return {}

    def reset(self) -> None:
        """Forget all batches."""
