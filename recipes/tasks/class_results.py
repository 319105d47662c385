"""Results of each class, counted over batches and ranks."""

import torch
from torch import Tensor
from torchmetrics import Metric

# with more classes there is no confusion matrix: 100,000 would need 80 GB
MOST_IN_MATRIX = 1000


class ClassResults(Metric):
    """Number of samples, of correct predictions and of predictions of each class, int64 [C]; up to
    `MOST_IN_MATRIX` classes the confusion matrix too. Labels of -1 are not counted."""

    full_state_update = False
    support: Tensor
    correct: Tensor
    predicted: Tensor
    pairs: Tensor

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes
        self.has_matrix = classes <= MOST_IN_MATRIX
        states = {"support": classes, "correct": classes, "predicted": classes}
        states["pairs"] = classes * classes if self.has_matrix else 0
        for name, size in states.items():
            zeros = torch.zeros(size, dtype=torch.long)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """logits: [N, C]; target: int64 [N]."""
        guess = logits.max(1).indices  # half the time of argmax on a CPU
        # a missing label adds 0 to class 0: a selection would wait for the device
        known = (target >= 0).long()
        label = target.clamp_min(0)
        self.support.index_add_(0, label, known)
        self.predicted.index_add_(0, guess, known)
        self.correct.index_add_(0, label, known * (guess == label))
        if self.has_matrix:
            self.pairs.index_add_(0, label * self.classes + guess, known)

    def compute(self) -> dict[str, Tensor]:
        """`counts` [3, C]: samples, correct ones and predictions of each class. `matrix` [C, C]:
        rows are true classes; [0, 0] where there are too many classes."""
        size = self.classes if self.has_matrix else 0
        counts = torch.stack([self.support, self.correct, self.predicted])
        return {"counts": counts, "matrix": self.pairs.view(size, size)}
