"""The embeddings that an evaluation has collected, of all ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from foundation.distributed import gather_uneven, world_size
from foundation.errors import UserError
from recipes.evaluation.relevance import Embedded
from recipes.networks.embedding import EMBEDDING

if TYPE_CHECKING:
    from recipes.contract.context import Context


@dataclass(frozen=True)
class Batch:
    """Unit vectors x [B, d] of a rank's samples, their stable numbers [B], targets [B] by task."""

    x: Tensor
    index: Tensor
    targets: dict[str, Tensor]


@dataclass(frozen=True)
class Cameras:
    """The camera of each sample: index [M], sorted, cameras [M]."""

    index: Tensor
    cameras: Tensor

    @classmethod
    def of_all_ranks(cls, batches: Sequence[tuple[Tensor, Tensor]]) -> "Cameras":
        """batches: cameras and indices of this rank. A sample may be there twice."""
        cameras, index = (gather_uneven(torch.cat(each)) for each in zip(*batches, strict=True))
        order = index.argsort()
        return cls(index[order], cameras[order])

    def of(self, index: Tensor) -> Tensor:
        """The cameras of these samples, all of which are there."""
        return self.cameras[torch.searchsorted(self.index, index)]


def embedded(context: "Context", view: Any, targets: dict[str, Tensor], index: Tensor) -> Batch:
    output = context.predict_output(context.reported().embed(view), index=index)
    x = output.logits.get(EMBEDDING, output.features)
    return Batch(F.normalize(x.float(), dim=1), index, targets)


def of_all_ranks(batches: Sequence[Batch], cameras: Cameras | None = None) -> dict[str, Embedded]:
    """The labeled samples of all ranks by task. Raises UserError for embeddings that are NaN or
    infinite."""
    x = gather_uneven(torch.cat([batch.x for batch in batches]))
    index = gather_uneven(torch.cat([batch.index for batch in batches]))
    check_finite(x)
    order = index.argsort()
    seen_by = None if cameras is None else cameras.of(index)
    found = {}
    for task in batches[0].targets:
        labels = gather_uneven(torch.cat([batch.targets[task] for batch in batches]))
        found[task] = Embedded(x, labels, index, seen_by).at(order[labels[order] >= 0])
    return found


def share_of_rank(rows: Tensor) -> Tensor:
    """This rank's share of the rows."""
    rank = dist.get_rank() if world_size() > 1 else 0
    return rows.tensor_split(world_size())[rank]


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
