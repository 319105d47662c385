"""Which neighbors of a query have its class, and what follows from it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.services.neighbors import ranked


@dataclass(frozen=True)
class Embedded:
    """Unit vectors x [R, d], labels [R] ≥ 0 and the samples' stable numbers [R], by which they are
    sorted; of all ranks. cameras: [R], None where they are not known."""

    x: Tensor
    labels: Tensor
    index: Tensor
    cameras: Tensor | None = None

    def at(self, rows: Tensor) -> "Embedded":
        cameras = None if self.cameras is None else self.cameras[rows]
        return Embedded(self.x[rows], self.labels[rows], self.index[rows], cameras)


def left_out(queries: Embedded, gallery: Embedded) -> Tensor:
    """bool [Q, R]: which samples of the gallery are no neighbors of a query: itself, and those of
    its class and camera, which would be found without any skill."""
    itself = queries.index[:, None] == gallery.index
    if queries.cameras is None or gallery.cameras is None:
        return itself
    alike = queries.labels[:, None] == gallery.labels
    return itself | (alike & (queries.cameras[:, None] == gallery.cameras))


def relevance(x: Tensor, labels: Tensor, queries: Tensor, depth: int) -> Tensor:
    """bool [Q, depth]: whether the first, second … neighbor of a query has its class. The query
    itself, identified by its position, is excluded.

    x: [R, d]. labels: [R]. queries: [Q], positions in them. depth: less than R.
    """
    similarity = x[queries] @ x.T
    similarity.scatter_(1, queries[:, None], -torch.inf)
    return labels[ranked(similarity, depth)] == labels[queries, None]


def gallery_relevance(queries: Embedded, gallery: Embedded, depth: int) -> Tensor:
    """bool [Q, depth]: whether the first, second … neighbor in the gallery has the query's class.
    What is `left_out` is no neighbor."""
    similarity = queries.x @ gallery.x.T
    out = left_out(queries, gallery)
    nearest = ranked(similarity.masked_fill_(out, -torch.inf), depth)
    relevant = gallery.labels[nearest] == queries.labels[:, None]
    # they are the last of all, and count there neither
    return relevant & ~out.gather(1, nearest)


def references(queries: Embedded, gallery: Embedded, classes: Tensor, labels: Tensor) -> Tensor:
    """int64 [Q]: samples of the gallery with the query's class that are not left out. classes: [C],
    sorted, of the gallery; labels: [R], the place of each of its samples among them."""
    if not len(gallery.x):
        return torch.zeros_like(queries.labels)
    place = torch.searchsorted(classes, queries.labels).clamp(max=len(classes) - 1)
    there = classes[place] == queries.labels
    number = labels.bincount(minlength=len(classes))[place] * there
    if queries.cameras is not None and gallery.cameras is not None:
        # a query that is in the gallery is one of these
        cameras = 1 + torch.maximum(queries.cameras.max(), gallery.cameras.max())
        pairs = (labels * cameras + gallery.cameras).sort().values
        own = place * cameras + queries.cameras
        before, behind = (torch.searchsorted(pairs, own, right=right) for right in (False, True))
        return number - (behind - before) * there
    # both are sorted by index
    at = torch.searchsorted(gallery.index, queries.index).clamp(max=len(gallery.x) - 1)
    return number - (gallery.index[at] == queries.index).long()


def retrieval_scores(relevant: Tensor, number: Tensor, ks: list[int]) -> dict[str, Tensor]:
    """Scores of each query, [Q]. relevant: bool [Q, depth] by rank. number: R_q ≥ 1 references of
    the query's class.

    recall@K = 1[any of the first K], r_precision = Σ_{k≤R} rel(k) / R, map@r = Σ_{k≤R} rel(k) P(k)
    / R.
    """
    rank = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    hits = relevant.double()
    within = hits * (rank <= number[:, None])
    precision = hits.cumsum(1) / rank
    scores = {f"recall@{k}": relevant[:, :k].any(1).double() for k in ks}
    scores["map@r"] = (within * precision).sum(1) / number
    scores["r_precision"] = within.sum(1) / number
    return scores
