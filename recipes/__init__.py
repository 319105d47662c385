"""What a recipe is and how it runs: step, methods, composition, networks, tasks, report.

    model = recipes.load("outputs/…")     a finished run, for use; see `loading` and `predictor`
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipes.loading import load as load


def __getattr__(name: str) -> Any:
    # help must come at once, so nothing heavy is imported before it is asked for
    if name == "load":
        from recipes.loading import load

        return load
    raise AttributeError(f"module 'recipes' has no attribute '{name}'")
