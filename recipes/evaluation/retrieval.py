"""Retrieval: how many of a sample's nearest neighbors among all others have its class.

Memory is bounded: embeddings are stored, similarities only for a block of queries at a time. Each
rank computes the queries of its share of the samples, against the samples of all ranks.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from foundation.distributed import global_sum
from foundation.errors import UserError
from foundation.types import Count, Steps
from recipes.contract.exhibit import Exhibit, Shown
from recipes.contract.probe import Probe
from recipes.evaluation.collected import Batch, Cameras, embedded, of_all_ranks, share_of_rank
from recipes.evaluation.relevance import (
    Embedded,
    gallery_relevance,
    left_out,
    references,
    relevance,
    retrieval_scores,
)
from recipes.services import neighbors
from recipes.services.clustering import kmeans, normalized_mutual_information
from recipes.services.neighbors import ranked

if TYPE_CHECKING:
    from recipes.contract.context import Context

QUERIES = 6  # in the report
NEIGHBORS = 5  # of each


def nearest_examples(queries: Embedded, gallery: Embedded, task: str) -> list[list[Shown]]:
    """Queries from all over the part, each with its nearest neighbors in the gallery, which is the
    part itself where there is none."""
    if len(gallery.x) <= NEIGHBORS or not len(queries.x):
        return []
    size = len(queries.x)
    chosen = torch.linspace(0, size - 1, min(QUERIES, size), device=queries.x.device).long()
    asked = queries.at(chosen)
    similarity = asked.x @ gallery.x.T
    out = left_out(asked, gallery)
    similarity.masked_fill_(out, -torch.inf)
    rows = []
    for query, nearest in enumerate(ranked(similarity, NEIGHBORS).tolist()):
        label = int(asked.labels[query])
        row = [Shown(int(asked.index[query]), caption="query", task=task, label=label)]
        for other in nearest:
            if out[query, other]:  # there are not enough others
                break
            there = int(gallery.labels[other])
            number = int(gallery.index[other])
            row.append(Shown(number, task=task, label=there, right=there == label))
        rows.append(row)
    return rows


class Retrieval(Probe):
    """Recall@K, MAP@R, R-precision and NMI of the embedding, or of the features where the run has
    none, L2-normalised (Musgrave, Belongie and Lim, A metric learning reality check, ECCV 2020,
    arXiv 2003.08505).

    Every sample of the part is a query against all others: excluded is itself, by its index, and no
    duplicate of it. Where the set has a gallery, its queries are looked up there and nowhere else;
    with cameras, pictures of the query's class and camera are left out, as in re-identification.
    Neighbors come by cosine, equal ones by the smaller index. Recall@K is the share of queries with
    one of their class among the first K. Samples without a label take no part.

    ks: the K of Recall@K, a list with 1; null: [1, 2, 4, 8].
    lone: queries without another of their class: `exclude` or count as `miss`. `exclude` logs their
        number.
    nmi_restarts: runs of k-means behind NMI, at least 0; 1; 0: no NMI. With as many clusters as
        classes and a fixed seed; the best run gives NMI = 2 I(y; c) / (H(y) + H(c)), of the gallery
        where there is one. It costs most of the time.
    """

    main = "recall@1"

    def __init__(
        self,
        ks: list[Count] | None = None,
        lone: Literal["exclude", "miss"] = "exclude",
        nmi_restarts: Steps = 1,
    ):
        super().__init__()
        self.ks = sorted(set([1, 2, 4, 8] if ks is None else ks))
        self.lone = lone
        self.nmi_restarts = nmi_restarts
        self.examples: list[list[Shown]] = []  # queries with their neighbors
        self.had_gallery = False  # in the last evaluation
        self.had_cameras = False
        if 1 not in self.ks:
            raise UserError(f"evaluate.retrieval.ks={self.ks}: expected a list that contains 1")
        self.reset()

    def metric_names(self, tasks: Sequence[str]) -> list[str]:
        names = [*self.score_names(), "lone_queries"]
        if self.nmi_restarts:
            names.append("nmi")
        if len(tasks) == 1:
            return names
        return [self.main, *(f"{task}/{name}" for task in tasks for name in names)]

    def score_names(self) -> list[str]:
        return [*(f"recall@{k}" for k in self.ks), "map@r", "r_precision"]

    def describe(self) -> str:
        lone = "left out" if self.lone == "exclude" else "count as a miss"
        against = "every sample is a query against all others"
        if self.had_gallery:
            against = "queries are looked up in the gallery of the test part"
        if self.had_cameras:
            against += ", without pictures of their class and camera"
        return f"{against}, by cosine; queries without another of their class are {lone}"

    def exhibit(self) -> Exhibit | None:
        if not self.examples:
            return None
        note = (
            f"Queries (left) and their {NEIGHBORS} nearest neighbors, the nearest first. Marked: "
            "of the query's class or not."
        )
        return Exhibit("Retrieval", note, self.examples)

    def reset(self) -> None:
        self.batches: list[Batch] = []
        self.gallery: list[Batch] = []
        self.cameras: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def update(
        self, context: "Context", view: Any, targets: dict[str, Tensor], index: Tensor
    ) -> None:
        self.batches.append(embedded(context, view, targets, index))

    @torch.no_grad()
    def see_gallery(
        self, context: "Context", view: Any, targets: dict[str, Tensor], index: Tensor
    ) -> None:
        self.gallery.append(embedded(context, view, targets, index))

    def see_cameras(self, cameras: Tensor, index: Tensor) -> None:
        self.cameras.append((cameras, index))

    @torch.no_grad()
    def compute(self) -> dict[str, Tensor]:
        cameras = Cameras.of_all_ranks(self.cameras) if self.cameras else None
        queries = of_all_ranks(self.batches, cameras)
        gallery = of_all_ranks(self.gallery, cameras) if self.gallery else None
        self.had_gallery = gallery is not None
        self.had_cameras = cameras is not None
        tasks = list(queries)
        values: dict[str, Tensor] = {}
        for task, own in queries.items():
            found = self.scores(own.x, own.labels)
            if gallery is not None:
                found = self.gallery_scores(own, gallery[task])
            if task == tasks[0]:
                self.examples = nearest_examples(
                    own, own if gallery is None else gallery[task], task
                )
            prefix = "" if len(tasks) == 1 else f"{task}/"
            for name, value in found.items():
                values[prefix + name] = value
        if len(tasks) > 1:
            by_task = [values[f"{task}/{self.main}"] for task in tasks]
            values[self.main] = torch.stack(by_task).mean()
        return values

    def scores(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """All metrics of one task. x: [R, d] unit vectors of all ranks, in the order of the index.
        labels: [R] ≥ 0."""
        _, labels = labels.unique(return_inverse=True)
        others = labels.bincount()[labels] - 1
        queries = (others >= 1).nonzero().flatten()
        sums: dict[str, Tensor] = {}
        if len(queries):
            depth = min(max(max(self.ks), int(others.max())), len(x) - 1)
            for block, relevant in self._relevances(x, labels, queries, depth):
                for name, score in retrieval_scores(relevant, others[block], self.ks).items():
                    sums[name] = sums.get(name, 0.0) + score.sum()
        return self.means(sums, len(queries), len(x)) | self.nmi(x, labels)

    def means(self, sums: dict[str, Tensor], asked: int, queries: int) -> dict[str, Tensor]:
        """Means of the sums over the queries of all ranks. asked: queries with one of their class
        to be found."""
        divisor = max(asked if self.lone == "exclude" else queries, 1)
        device = self.batches[0].x.device
        zero = torch.zeros((), dtype=torch.float64, device=device)
        names = self.score_names()
        values = {name: global_sum(sums.get(name, zero)) / divisor for name in names}
        values["lone_queries"] = zero + (queries - asked)
        return values

    def nmi(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """x: [R, d] unit vectors. labels: [R], from 0 without a gap."""
        if not (self.nmi_restarts and len(x)):
            return {}
        clusters = kmeans(x, int(labels.max()) + 1, restarts=self.nmi_restarts)
        return {"nmi": normalized_mutual_information(labels, clusters)}

    def gallery_scores(self, queries: Embedded, gallery: Embedded) -> dict[str, Tensor]:
        """All metrics of one task whose queries are looked up in a gallery."""
        classes, labels = gallery.labels.unique(return_inverse=True)
        number = references(queries, gallery, classes, labels)
        asked = (number >= 1).nonzero().flatten()
        sums: dict[str, Tensor] = {}
        if len(asked):
            depth = min(max(max(self.ks), int(number.max())), len(gallery.x))
            for block in share_of_rank(asked).split(max(neighbors.BLOCK // len(gallery.x), 1)):
                relevant = gallery_relevance(queries.at(block), gallery, depth)
                for name, score in retrieval_scores(relevant, number[block], self.ks).items():
                    sums[name] = sums.get(name, 0.0) + score.sum()
        return self.means(sums, len(asked), len(queries.x)) | self.nmi(gallery.x, labels)

    @staticmethod
    def _relevances(
        x: Tensor, labels: Tensor, queries: Tensor, depth: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's share of the queries, a block at a time, each with its `relevance`."""
        share = share_of_rank(queries)
        if not len(share):
            return
        if neighbors.mirrors(x, depth):
            first = int(share[0])
            nearest = neighbors.nearest(x, slice(first, int(share[-1]) + 1), depth)
            for block in share.split(max(neighbors.BLOCK // 8 // depth, 1)):
                yield block, labels[nearest[block - first]] == labels[block, None]
            return
        for block in share.split(max(neighbors.BLOCK // len(x), 1)):
            yield block, relevance(x, labels, block, depth)
