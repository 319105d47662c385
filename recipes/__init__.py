"""What a recipe is and how it runs: step, methods, composition, networks, tasks, report.

    model = recipes.load("outputs/…")     a finished run, for use; see `loading` and `predictor`
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

# `python -m recipes.…` looks for every module in the current folder first, also for those of Roux and of its libraries.
# A downloaded run may be that folder, so it comes last, where a class of one's own is still found. While a package is
# searched for `-m`, argv[0] says so; Roux's own folder is left where it is.
_here = str(Path.cwd())
if sys.argv[:1] == ["-m"] and sys.path[:1] in ([""], [_here]) and str(Path(__file__).resolve().parent.parent) != _here:
    sys.path.append(sys.path.pop(0))

if TYPE_CHECKING:
    from recipes.loading import load as load


def __getattr__(name: str) -> Any:
    # help must come at once, so nothing heavy is imported before it is asked for
    if name == "load":
        from recipes.loading import load

        return load
    raise AttributeError(f"module 'recipes' has no attribute '{name}'")
