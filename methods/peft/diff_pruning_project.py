"""The second stage of Diff Pruning: from gates to the entries that are kept."""

from pathlib import Path

from safetensors.torch import save_file

from foundation.errors import UserError
from methods.peft.diff_pruning import DiffPruning, diffs_of, hard_delta
from recipes.contract import Outcome, Program
from recipes.runs.reopened import reopen


class Project(Program):
    """Keep the `share` largest entries of δ by magnitude over all weights, and fix the gates: the
    next stage trains the kept entries alone.

    run: the run that trained the gates, `{NAME}`; the share is its own.
    """

    artifacts = {"weights": "weights.safetensors"}

    def __init__(self, run: str):
        self.checkpoint = run

    def run(self, folder: Path, seed: int) -> Outcome:
        recipe = reopen(self.checkpoint).recipe
        methods = recipe.composition.methods.values()
        method = next((method for method in methods if isinstance(method, DiffPruning)), None)
        if method is None:
            problem = f"'{self.checkpoint}' has no diff_pruning"
            raise UserError("program.run", problem, "name a run with peft=diff_pruning")
        method.project([recipe.network])
        state = recipe.network.state_dict()
        save_file(
            {name: value.cpu().contiguous().clone() for name, value in state.items()},
            folder / "weights.safetensors",
        )
        diffs = diffs_of(recipe.network, method.key)
        kept = sum(int((hard_delta(diff) != 0).sum()) for diff in diffs)
        size = sum(diff.w.numel() for diff in diffs)
        return Outcome({"kept": float(kept), "share": kept / size})
