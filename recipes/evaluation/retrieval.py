"""Retrieval: how many of a sample's nearest neighbors among all others have its class.

Memory is bounded: embeddings are stored, similarities only for a block of queries at a time. Each
rank computes the queries of its share of the samples, against the samples of all ranks.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from foundation.distributed import global_sum, world_size
from foundation.errors import UserError
from foundation.types import Count, Steps
from recipes.contract.exhibit import Exhibit, Shown
from recipes.contract.probe import Probe
from recipes.networks.embedding import EMBEDDING
from recipes.services import neighbors
from recipes.services.clustering import kmeans, normalized_mutual_information
from recipes.services.neighbors import ranked

if TYPE_CHECKING:
    from recipes.contract.context import Context

QUERIES = 6  # in the report
NEIGHBORS = 5  # of each


def relevance(x: Tensor, labels: Tensor, queries: Tensor, depth: int) -> Tensor:
    """bool [Q, depth]: whether the first, second … neighbor of a query has its class. The query
    itself, identified by its position, is excluded.

    x: [R, d]. labels: [R]. queries: [Q], positions in them. depth: less than R.
    """
    similarity = x[queries] @ x.T
    similarity.scatter_(1, queries[:, None], -torch.inf)
    return labels[ranked(similarity, depth)] == labels[queries, None]


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


def gather_uneven(value: Tensor) -> Tensor:
    """Rows of all ranks, whose numbers of rows may differ."""
    if world_size() == 1:
        return value
    sizes = [torch.zeros(1, dtype=torch.int64, device=value.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(value)], device=value.device))
    lengths = [int(size) for size in sizes]
    padded = value.new_zeros(max(lengths), *value.shape[1:])
    padded[: len(value)] = value
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def check_finite(x: Tensor) -> None:
    """Raise UserError for embeddings [R, d] that are NaN or infinite: they have no neighbors, and
    their rank would be that of the order in which they are sorted."""
    bad = int((~x.isfinite()).any(1).sum())
    if bad:
        raise UserError(
            "evaluate.retrieval",
            f"the embeddings of {bad} of {len(x)} samples are NaN or infinite",
            "lower optimizer.lr, or set trainer.gradient_clip_val=1",
        )


def nearest_examples(x: Tensor, labels: Tensor, index: Tensor, task: str) -> list[list[Shown]]:
    """Queries from all over the part, each with its nearest neighbors. x: [R, d]. labels: [R] ≥ 0.
    index: [R], positions in the part."""
    if len(x) <= NEIGHBORS:
        return []
    queries = torch.linspace(0, len(x) - 1, min(QUERIES, len(x)), device=x.device).long()
    similarity = x[queries] @ x.T
    similarity.scatter_(1, queries[:, None], -torch.inf)
    nearest = ranked(similarity, NEIGHBORS)
    rows = []
    for query, neighbors_of in zip(queries.tolist(), nearest.tolist(), strict=True):
        label = int(labels[query])
        row = [Shown(int(index[query]), caption="query", task=task, label=label)]
        for other in neighbors_of:
            there = int(labels[other])
            row.append(Shown(int(index[other]), task=task, label=there, right=there == label))
        rows.append(row)
    return rows


class Retrieval(Probe):
    """Recall@K, MAP@R, R-precision and NMI of the embedding, or of the features where the run has
    none, L2-normalised (Musgrave, Belongie and Lim, A metric learning reality check, ECCV 2020,
    arXiv 2003.08505).

    Every sample of the part is a query against all others: excluded is itself, by its index, and no
    duplicate of it. Neighbors come by cosine, equal ones by the smaller index. Recall@K is the
    share of queries with one of their class among the first K. Samples without a label take no
    part.

    ks: the K of Recall@K, a list with 1; null: [1, 2, 4, 8].
    lone: queries without another of their class: `exclude` or count as `miss`. `exclude` logs their
        number.
    nmi_restarts: runs of k-means behind NMI, at least 0; 1; 0: no NMI. With as many clusters as
        classes and a fixed seed; the best run gives NMI = 2 I(y; c) / (H(y) + H(c)). It costs most
        of the time.
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
        return (
            "every sample is a query against all others, by cosine; queries without another of "
            f"their class are {lone}"
        )

    def exhibit(self) -> Exhibit | None:
        if not self.examples:
            return None
        note = (
            f"Queries (left) and their {NEIGHBORS} nearest neighbors, the nearest first. Marked: "
            "of the query's class or not."
        )
        return Exhibit("Retrieval", note, self.examples)

    def reset(self) -> None:
        self.batches: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    @torch.no_grad()
    def update(
        self, context: "Context", view: Any, targets: dict[str, Tensor], index: Tensor
    ) -> None:
        output = context.predict_output(context.reported().embed(view), index=index)
        x = output.logits.get(EMBEDDING, output.features)
        self.batches.append((F.normalize(x.float(), dim=1), index, targets))

    @torch.no_grad()
    def compute(self) -> dict[str, Tensor]:
        x = gather_uneven(torch.cat([x for x, _, _ in self.batches]))
        index = gather_uneven(torch.cat([index for _, index, _ in self.batches]))
        check_finite(x)
        order = index.argsort()
        tasks = list(self.batches[0][2])
        values: dict[str, Tensor] = {}
        for task in tasks:
            labels = torch.cat([targets[task] for _, _, targets in self.batches])
            labels = gather_uneven(labels)[order]
            known = labels >= 0
            if task == tasks[0]:
                at = index[order][known]
                self.examples = nearest_examples(x[order][known], labels[known], at, task)
            prefix = "" if len(tasks) == 1 else f"{task}/"
            for name, value in self.scores(x[order][known], labels[known]).items():
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
        divisor = max(len(queries) if self.lone == "exclude" else len(x), 1)
        names = self.score_names()
        zero = x.new_zeros((), dtype=torch.float64)
        values = {name: global_sum(sums.get(name, zero)) / divisor for name in names}
        values["lone_queries"] = zero + (len(x) - len(queries))
        if self.nmi_restarts and len(x):
            clusters = kmeans(x, int(labels.max()) + 1, restarts=self.nmi_restarts)
            values["nmi"] = normalized_mutual_information(labels, clusters)
        return values

    @staticmethod
    def _relevances(
        x: Tensor, labels: Tensor, queries: Tensor, depth: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's share of the queries, a block at a time, each with its `relevance`."""
        rank = dist.get_rank() if world_size() > 1 else 0
        share = queries.tensor_split(world_size())[rank]
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
