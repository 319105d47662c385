"""Batches of classes with their nearest classes, for losses that learn most from classes that are
still close; the classes' places change while a run trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.samplers import Blocks, LiveOrder, class_labels, some_of
from datamodules.splits import class_members
from foundation.errors import UserError
from foundation.randomness import generator


@dataclass(frozen=True)
class ClassPlaces:
    """Where the classes lie, on the host.

    means: [C, d], the mean unit embedding of each class; their products order classes by the mean
        squared distance of their samples, 2 - 2 ⟨μ_p, μ_q⟩.
    node: int64 [C], equal for classes that are so close that they count as one.
    """

    means: Tensor
    node: Tensor


Newest = Callable[[], ClassPlaces | None]


class NeighborOrder(Blocks):
    """Endless batches of `anchors` classes and for each the `neighbors` - 1 nearest further ones,
    with `per_class` samples of every class, class by class.

    Anchors are drawn uniformly, from different nodes where there are enough. Classes that are in
    the batch already are passed over, so all classes of a batch differ. Before `renew` all classes
    are drawn uniformly. A class with fewer than `per_class` samples repeats them.
    """

    def __init__(self, labels: Tensor, anchors: int, neighbors: int, per_class: int, *key: object):
        super().__init__()
        self.anchors = anchors
        self.neighbors = neighbors
        self.per_class = per_class
        self.key = key
        self.length = anchors * neighbors * per_class
        self.classes = labels[labels >= 0].unique()
        self.members = class_members(labels)
        self.places: ClassPlaces | None = None

    def renew(self, places: ClassPlaces) -> None:
        """Make all further batches from these places."""
        self._number = -1  # the batch in memory is of the places before
        self.places = places

    def of(self, places: ClassPlaces | None) -> "NeighborOrder":
        """The order with these places, or those it has."""
        if places is not None and places is not self.places:
            self.renew(places)
        return self

    def block(self, number: int) -> Tensor:
        """int64 [anchors · neighbors · per_class]: positions of the samples of batch `number`."""
        source = generator(*self.key, number)
        order = torch.randperm(len(self.classes), generator=source)
        if self.places is None:
            chosen = order[: self.anchors * self.neighbors]
        else:
            chosen = self.with_neighbors(self.spread(order, self.places), self.places)
        return torch.cat(
            [some_of(self.members[c], self.per_class, source) for c in chosen.tolist()]
        )

    def spread(self, order: Tensor, places: ClassPlaces) -> Tensor:
        """The first of `order` for each node, then the rest: the anchors of a batch."""
        node = places.node[self.classes[order]]
        by_node = node.argsort(stable=True)
        repeated = torch.zeros(len(order), dtype=torch.bool)
        repeated[by_node[1:]] = node[by_node[1:]] == node[by_node[:-1]]
        return order[repeated.long().argsort(stable=True)][: self.anchors]

    def with_neighbors(self, anchors: Tensor, places: ClassPlaces) -> Tensor:
        """Each anchor followed by its nearest classes; numbers are places in `classes`."""
        means = places.means[self.classes]
        similarity = means[anchors] @ means.T
        similarity[:, anchors] = -torch.inf
        rows = []
        for anchor, of_anchor in zip(anchors, similarity, strict=True):
            near = of_anchor.argsort(descending=True, stable=True)[: self.neighbors - 1]
            similarity[:, near] = -torch.inf
            rows.append(torch.cat([anchor[None], near]))
        return torch.cat(rows)


@dataclass(frozen=True)
class MakeNeighborOrder:
    """Makes the order of a stream.

    newest: where classes are now, None before that is known. task: the task whose classes are used,
    None for the first. key: the method's key, for messages.

    Raises UserError if the batch is not anchors · neighbors · per_class, or the data has too few
    classes.
    """

    anchors: int
    neighbors: int
    per_class: int
    newest: Newest = lambda: None
    task: str | None = None
    key: str = "hierarchical_triplet"

    def __call__(
        self, targets: Mapping[str, Tensor], batch_size: int, total: int, seed: int, stream: str
    ) -> LiveOrder:
        labels = class_labels(targets, self.task, self.key)
        self.check_batch(batch_size)
        there = len(labels[labels >= 0].unique())
        wanted = self.anchors * self.neighbors
        if wanted > there:
            neighbors = min(self.neighbors, there)
            anchors = there // neighbors
            size = anchors * neighbors * self.per_class
            option = f"methods.{self.key}"
            raise UserError(
                f"{option}.anchors={self.anchors}: with {option}.neighbors={self.neighbors} a "
                f"batch has {wanted} classes, the labeled data has {there}; expected e.g. "
                f"{option}.anchors={anchors} {option}.neighbors={neighbors} data.batch_size={size}"
            )
        order = NeighborOrder(
            labels, self.anchors, self.neighbors, self.per_class, seed, "order", stream
        )
        return LiveOrder(lambda: order.of(self.newest()))

    def check_batch(self, batch_size: int) -> None:
        """Before data are read."""
        wanted = self.anchors * self.neighbors * self.per_class
        if batch_size != wanted:
            option = f"methods.{self.key}"
            raise UserError(
                f"data.batch_size={batch_size}: a batch has {option}.anchors={self.anchors} "
                f"classes and their nearest, {option}.neighbors={self.neighbors} in all, with "
                f"{option}.samples_per_class={self.per_class} samples each; "
                f"expected data.batch_size={wanted}"
            )
