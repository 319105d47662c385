"""Balanced group softmax. Li et al., Overcoming Classifier Imbalance for Long-tail Object Detection
with Balanced Group Softmax, CVPR 2020, arXiv 2006.10408."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.distributed import gather_rows
from foundation.errors import UserError
from foundation.types import Count, Scale
from recipes.contract import Context, Declaration, Method
from recipes.networks.network import Network, linear_head
from recipes.step import Step
from recipes.step.criterion import Role

MERGED = "its logits are of one softmax per group and not of one over all classes; leave one out"
ONE_CLASS = "it needs the one true class of a sample, which mixed or smoothed targets do not have"


# -- the mathematics -------------------------------------------------------------------------------
def groups_of(counts: Tensor, thresholds: list[int]) -> Tensor:
    """The group of every class, int64 [C]: that of the interval [a, b) between thresholds in which
    its count n_c is. Intervals without a class are left out."""
    intervals = torch.bucketize(counts.detach().cpu(), torch.tensor(thresholds), right=True)
    return intervals.unique(return_inverse=True)[1]


def log_normalizers(logits: Tensor, mask: Tensor) -> Tensor:
    """log(1 + Σ_{c in g} e^{d_c}), float32 [N, G]: the 1 is the output "others". mask: [G, C]."""
    grouped = logits.float().unsqueeze(1).masked_fill(~mask, -torch.inf)
    return F.softplus(grouped.logsumexp(2))


def merged_scores(logits: Tensor, group: Tensor, mask: Tensor) -> Tensor:
    """log p(c | its group), [N, C]: they sum to more than 1 over all classes."""
    return logits.float() - log_normalizers(logits, mask)[:, group]


def group_costs(logits: Tensor, group: Tensor, mask: Tensor, shares: Tensor) -> Tensor:
    """ℓ_y = Σ_g a_g CE_g for every y, [N, C]; in the group of y the target is y, in all others it
    is "others". shares: a [N, G]."""
    whole = (shares * log_normalizers(logits, mask)).sum(1, keepdim=True)
    return whole - shares[:, group] * logits.float()


def used_samples(own: Tensor, priorities: Tensor, beta: float | None) -> Tensor:
    """bool [N, G]: the samples with a class of the group, and of the others with a label those of
    lowest priority, at most β for each of the first; None: all, where there is a first.

    own: int64 [N], group of the samples' classes, -1 without a label. priorities: random [N, G].
    """
    inside = own.unsqueeze(1) == torch.arange(priorities.shape[1], device=own.device)
    outside = (own >= 0).unsqueeze(1) & ~inside
    count = inside.sum(0)
    if beta is None:
        return inside | (outside & (count > 0))
    order = priorities.masked_fill(~outside, torch.inf).argsort(0)
    return inside | (outside & (order.argsort(0) < (beta * count).floor()))


def group_shares(own: Tensor, used: Tensor) -> Tensor:
    """a [N, G], so that the mean of Σ_g a_g CE_g over the samples with a label is the sum over
    groups of the means over their used samples."""
    return used * (own >= 0).sum() / used.sum(0).clamp_min(1)


# -- the method ------------------------------------------------------------------------------------
class GroupedHead(nn.Linear):
    """d_c = z_c - z_others(g(c)), [N, C]: C classes, and `others` with one output per group. A
    softmax over a group and its "others" depends on these differences alone.

    group: of every class, int64 [C].
    """

    group: Tensor
    mask: Tensor  # [G, C]: which classes are in a group

    def __init__(self, features: int, group: Tensor):
        super().__init__(features, len(group))
        self.groups = int(group.max()) + 1
        nn.init.xavier_normal_(self.weight)
        nn.init.zeros_(self.bias)
        self.others = linear_head(features, self.groups)
        self.register_buffer("group", group)
        mask = group == torch.arange(self.groups).unsqueeze(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        others: Tensor = self.others(input)
        return super().forward(input) - others[:, self.group]


def grouped_head(network: Network, task: str) -> GroupedHead | None:
    """The head of a task whose classes are in groups."""
    head = network.heads[task]
    return head if isinstance(head, GroupedHead) else None


class BAGS(Method):
    """L = Σ_g 1/|U_g| Σ_{i in U_g} CE_g(z_i, y_i): one softmax per group of classes with similar
    counts, over its classes and "others", so that frequent classes do not suppress rare ones.

    U_g are the samples with a class of group g and at most β others for each of them, drawn anew
    for every batch; a group without a sample in the batch adds 0. Prediction: the probabilities of
    all groups side by side, without "others"; they are no distribution. The paper trains the new
    heads alone, on a network that was trained plainly: long_tail=[crt,bags] in a second stage. For
    long tails over many classes; the group of detection's background is left out.

    The heads, which must be linear, are replaced by ones with an output "others" per group. Their
    logits are differences to "others". The draw and |U_g| are over the global batch (reference
    code: of each rank). Tasks whose classes are all in one group keep their heads and softmax;
    UserError if no task has two groups. Methods that read logits as one softmax are refused.

    thresholds: counts at which the next group begins, ascending; null: 10, 100, 1000 (paper).
    beta: others β for each sample with a class of the group, above 0; 8 (paper); null: all.
    """

    declaration = Declaration(
        slots=("prior_correction", "class_losses", "heads"),
        refuses={
            "adjusts_logits": MERGED,
            "attacks_labeled": MERGED,
            "focal": MERGED,
            "unlabeled_loss": MERGED,
            "soft_targets": f"{ONE_CLASS}; leave one out",
        },
        after=("freezes_backbone",),
    )

    def __init__(self, thresholds: list[Count] | None = None, beta: Scale | None = 8.0):
        self.thresholds = [10, 100, 1000] if thresholds is None else thresholds
        self.beta = beta
        if self.thresholds != sorted(set(self.thresholds)) or not self.thresholds:
            raise UserError(
                f"methods.bags.thresholds={self.thresholds}",
                "expected ascending counts",
                "e.g. [10,100,1000]",
            )

    def build(self, context: Context) -> None:
        groups = {
            task: groups_of(context.statistics.counts(task), self.thresholds)
            for task in context.tasks
        }
        several = {task: group for task, group in groups.items() if group.max() > 0}
        if not several:
            raise self.one_group(context)
        for task, group in several.items():
            head = context.network.heads[task]
            if not isinstance(head, nn.Linear):
                raise UserError(
                    f"methods.{self.key}: the head of task '{task}' is not linear; leave one out"
                )
            made = GroupedHead(head.in_features, group)
            # heads that no loss trains stay without gradient
            made.requires_grad_(head.weight.requires_grad)
            context.network.heads[task] = made.to(head.weight.device)

    def one_group(self, context: Context) -> UserError:
        counts = [context.statistics.counts(task) for task in context.tasks]
        found = "; ".join(
            f"{int(n.min())} to {int(n.max())} of '{task}'"
            for task, n in zip(context.tasks, counts, strict=True)
        )
        return UserError(
            f"methods.{self.key}.thresholds={self.thresholds}",
            f"all classes are in one group: they have {found} labeled samples",
            "choose a threshold between these counts, or leave the method out",
        )

    def prepare(self, step: Step, context: Context) -> None:
        """Draw the samples that each group's loss uses. A replay draws the same ones."""
        shares = {}
        rank = step.randomness.rank
        for task, labels in step.streams["labeled"].targets.items():
            head = grouped_head(context.network, task)
            if head is None:
                continue
            whole = gather_rows(labels)
            own = torch.where(whole >= 0, head.group[whole.clamp_min(0)], -1)
            draw = step.randomness.shared(f"{self.key}/{task}", len(own))
            used = used_samples(own, draw.uniform(head.groups), self.beta)
            rows = slice(rank * len(labels), (rank + 1) * len(labels))
            shares[task] = group_shares(own, used)[rows]
        step.scratch[self.key] = shares

    def class_losses(
        self, step: Step, logits: Tensor, task: str, role: Role, context: Context
    ) -> Tensor | None:
        head = grouped_head(context.network, task)
        if head is None:
            return None
        if role == "labeled":
            shares = step.scratch[self.key][task]
        else:
            shares = logits.new_ones(len(logits), head.groups)
        return group_costs(logits, head.group, head.mask, shares)

    def infer(self, logits: Tensor, task: str, context: Context) -> Tensor:
        head = grouped_head(context.network, task)
        return logits if head is None else merged_scores(logits, head.group, head.mask)
