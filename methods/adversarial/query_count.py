"""How often attacks by queries succeed, and what that costs."""

import torch
from torch import Tensor

from foundation.distributed import global_sum
from methods.adversarial.attacks.attack import Queried


def of_restarts(results: list[Queried]) -> Queried:
    """One search that begins anew when it has failed: queries add up until the first success."""
    first = results[0]
    queries = first.queries.clone()
    success = first.success.clone()
    for result in results[1:]:
        queries += torch.where(success, 0, result.queries)
        success |= result.success
    return Queried(results[-1].x, queries, success)


class QueryCount:
    """success@Q: share of the samples that were classified correctly and are misclassified within Q
    queries. queries: mean number of them by sample, of failed searches all that were made.

    budgets: the Q.
    """

    def __init__(self, budgets: list[int]) -> None:
        self.budgets = budgets
        self.sums: Tensor | None = None

    def add(self, right: Tensor, result: Queried) -> None:
        """right: bool [N], the samples that are classified correctly; only they are attacked."""
        counted = right.double()
        columns = [counted, counted * result.queries]
        for budget in self.budgets:
            columns.append(counted * (result.success & (result.queries <= budget)))
        sums = torch.stack([column.sum() for column in columns])
        self.sums = sums if self.sums is None else self.sums + sums

    def compute(self, device: torch.device) -> dict[str, Tensor]:
        """Metrics by name over all ranks; empty where no sample was classified correctly."""
        none = torch.zeros(2 + len(self.budgets), dtype=torch.float64, device=device)
        count, queries, *reached = global_sum(none if self.sums is None else self.sums)
        if not count:
            return {}
        found = {"queries": queries / count}
        for budget, number in zip(self.budgets, reached, strict=True):
            found[f"success@{budget}"] = number / count
        return found

    def reset(self) -> None:
        self.sums = None
