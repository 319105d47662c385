"""The distribution of recent predictions, to which alignment compares that of the labels."""

import torch
from torch import Tensor, nn

from foundation.distributed import global_sum, world_size


class RecentPredictions(nn.Module):
    """p̃(y) [C]: the mean of the last `size` batches' mean predictions, each uniform at first; part
    of checkpoints and equal on all ranks."""

    batches: Tensor
    written: Tensor

    def __init__(self, classes: int, size: int = 128):
        super().__init__()
        self.register_buffer("batches", torch.full((size, classes), 1.0 / classes))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    def mean(self) -> Tensor:
        return self.batches.mean(0)

    @torch.no_grad()
    def add(self, probabilities: Tensor) -> None:
        """A batch of this rank, [N, C], in place of the oldest one."""
        mean = global_sum(probabilities.float().mean(0)) / world_size()
        # the place is a tensor: an index on the host would sync
        self.batches.index_copy_(0, (self.written % len(self.batches)).view(1), mean.unsqueeze(0))
        self.written += 1
