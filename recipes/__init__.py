"""What a recipe is and how it runs: step, methods, composition, networks, tasks, report.

model = recipes.load("outputs/…")     a finished run, for use; see `loading` and `predictor`
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation import deferred, moved


def _search_current_folder_last() -> None:
    """`python -m recipes.…` looks for every module in the current folder first, also for Roux's and
    its libraries'. A downloaded run may be that folder, so it is searched last: a class of one's
    own is still found there."""
    # while Python imports the package of a module for `-m`, argv[0] says so
    if sys.argv[:1] != ["-m"] or sys.flags.safe_path or not sys.path:
        return
    if Path(sys.path[0]).resolve() != Path(__file__).resolve().parent.parent:
        sys.path.append(sys.path.pop(0))


_search_current_folder_last()
moved.install()
deferred.install()

if TYPE_CHECKING:
    from recipes.predict.loading import load as load


def __getattr__(name: str) -> Any:
    # help must come at once, so nothing heavy is imported before it is asked for
    if name == "load":
        from recipes.predict.loading import load

        return load
    raise AttributeError(f"module 'recipes' has no attribute '{name}'")
