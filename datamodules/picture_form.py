"""What the pictures of a set are brought to: channels, size, and what becomes of the aspect."""

from dataclasses import dataclass
from typing import Literal

from foundation.errors import UserError
from foundation.types import Share

Fit = Literal["crop", "pad", "squash"]
GREY = 0.5  # of a border, unless a config says another


@dataclass(frozen=True)
class PictureForm:
    """uint8 [channels, height, width], the form in which every picture of a set is stored.

    fit: `crop`: scaled to cover the size, and the middle is cut out. `pad`: scaled to fit into it,
        with a border of `fill` around. `squash`: both sides are scaled, the aspect is lost.
    fill: grey of the border, in [0, 1].
    """

    channels: int
    height: int
    width: int
    fit: Fit = "crop"
    fill: float = GREY

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def mode(self) -> str:
        """PIL's mode of one and of three channels."""
        return "L" if self.channels == 1 else "RGB"

    @property
    def has_bands(self) -> bool:
        """Whether the channels are bands, as of satellites, which only arrays and TIFF have."""
        return self.channels not in (1, 3)

    @property
    def border(self) -> int:
        """The level 0 to 255 of the border."""
        return round(255 * self.fill)


def square(channels: int, size: int, fit: Fit, fill: Share | None) -> PictureForm:
    """The form that the settings of a loader name. Raises UserError for a border that no picture
    gets."""
    if fill is not None and fit != "pad":
        problem = f"is the border that data.source.fit=pad adds, and fit is {fit}"
        raise UserError(f"data.source.fill={fill}", problem, "leave one out")
    return PictureForm(channels, size, size, fit, GREY if fill is None else fill)
