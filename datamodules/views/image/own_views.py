"""Views by transforms of one's own, made with a batch where its samples are fetched."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from datamodules.views.image.own import Own
from datamodules.views.named import view_called
from foundation.randomness import Draw, Randomness


class OwnViews:
    """The views of one's own of each stream, with the numbers that a view made later would draw.

    views: by stream and full name (`weak`, `weak2`). seed, rank, world: of the run.
    """

    def __init__(self, views: Mapping[str, Mapping[str, Own]], seed: int, rank: int, world: int):
        self.views = views
        self.seed = seed
        self.rank = rank
        self.world = world

    def add(self, batch: dict[str, Any]) -> None:
        """Add {"views": {name: pictures}} to the streams of a training batch."""
        for stream in self.views:
            if stream in batch:
                fields = batch[stream]
                fields["views"] = self.made(stream, fields["data"], batch["position"])

    @staticmethod
    def draw(randomness: Randomness, place: str, rows: int, purpose: str) -> Draw:
        return randomness.draw(f"{place}/{purpose}", rows)

    def made(self, stream: str, pixels: Tensor, position: int) -> dict[str, Tensor]:
        randomness = Randomness(self.seed, position, self.rank, self.world)
        found = {}
        for name, view in self.views[stream].items():
            draws = partial(self.draw, randomness, f"{stream}/{name}", len(pixels))
            found[name] = view.made(pixels, view.seeds(len(pixels), draws))
        return found


def own_views(
    views: Mapping[str, Any],
    asked: Mapping[str, Sequence[str]],
    seed: int,
    rank: int = 0,
    world: int = 1,
) -> OwnViews | None:
    """Those of the views that streams are asked for which are transforms of one's own; None if
    there are none. views: of the data, by name. asked: full names by stream."""
    found: dict[str, dict[str, Own]] = {}
    for stream, names in asked.items():
        for name in names:
            view = view_called(views, name)
            if isinstance(view, Own):
                found.setdefault(stream, {})[name] = view
    return OwnViews(found, seed, rank, world) if found else None
