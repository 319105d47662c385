"""The decision between two rounds of fully-adaptive feature sharing."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from foundation.errors import UserError
from foundation.files import write_json
from methods.multi_task.affinity import Choice, branch_affinity, choose
from methods.multi_task.fafs import FAFS
from methods.multi_task.tree import Groups, Tree, widened, write_tree
from recipes.contract import Outcome, Program
from recipes.runs.reopened import Reopened, reopen


class Widen(Program):
    """Split the active stage of a fafs run into the clusters of branches with the lowest cost, and
    copy its columns; says stop where the stage stays whole or no stage is left.

    The weights are those of the run with copies for the new columns; `decision.json` has the
    affinities and the cost of every number of columns.

    run: the run of this round, `{NAME}`.
    """

    artifacts = {"tree": "tree.json", "weights": "weights.safetensors"}
    may_stop = True

    def __init__(self, run: str):
        self.checkpoint = run

    def run(self, folder: Path, seed: int) -> Outcome:
        reopened = reopen(self.checkpoint)
        method = fafs_of(reopened, self.checkpoint)
        network = reopened.recipe.network
        tree = method.tree_of(network)
        tasks = list(network.heads)
        table = method.module(reopened.recipe).table.cpu()
        after, choice = decide(tree, tasks, table, method.alpha, method.max_columns, seed)
        state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        save_file(widened(state, tree, after), folder / "weights.safetensors")
        write_tree(folder / "tree.json", after)
        write_json(folder / "decision.json", decision(tasks, table, tree, choice))
        columns = len(after.stages[tree.active].groups)
        stop = choice is None or columns == 1 or after.active < 1
        return Outcome({"stage": float(tree.active), "columns": float(columns)}, stop)


def fafs_of(reopened: Reopened, run: str) -> FAFS:
    methods = reopened.recipe.composition.methods.values()
    found = next((method for method in methods if isinstance(method, FAFS)), None)
    if found is None:
        raise UserError("program.run", f"'{run}' has no fafs", "name a run with multi_task=fafs")
    return found


def decide(
    tree: Tree, tasks: list[str], table: Tensor, alpha: float, most: int | None, seed: int
) -> tuple[Tree, Choice | None]:
    """The tree of the next round, and the choice that it follows from; None where no stage can
    split. table: affinities of the tasks, [T, T]."""
    if tree.active < 1:
        return tree, None
    branches = tree.branches()
    members = [[tasks.index(task) for task in branch] for branch in branches]
    affinity = branch_affinity(table, members)
    price = tree.stages[tree.active].price
    choice = choose(affinity, price, alpha, most or len(branches), seed)
    if len(choice.clusters) == 1:
        return tree, choice
    groups: Groups = [joined(branches, cluster) for cluster in choice.clusters]
    return tree.split(groups), choice


def joined(branches: Groups, cluster: list[int]) -> list[str]:
    """The tasks of several branches."""
    tasks: list[str] = []
    for i in cluster:
        tasks += branches[i]
    return tasks


def decision(
    tasks: list[str], table: Tensor, tree: Tree, choice: Choice | None
) -> dict[str, object]:
    """For people: what was seen and what it cost."""
    return {
        "tasks": tasks,
        "affinity": table,
        "active": tree.active,
        "cost_by_columns": None if choice is None else choice.by_count,
    }
