"""The numbers kept for docs/reliability.md, and its tables of them.

Trials keep them with `--write-numbers`: `tests/conformance/test_ranks.py` and
`test_kill_every_recipe.py`.
"""

from collections import defaultdict
from typing import Any

from benchmarks.machine import ROOT, commit
from benchmarks.record import load, save
from benchmarks.table import of_words
from tests.support.killed_runs import PHASES
from tests.support.settings import EXACT

RANKS = ROOT / "docs" / "results" / "rank_equality.json"
KILLS = ROOT / "docs" / "results" / "kill_test.json"


def keep_ranks(case: dict[str, Any]) -> None:
    """In place of what was kept of the same methods and kind of data."""
    kept = load(RANKS)
    same = (case["keys"], case["kind"])
    cases = [one for one in kept["cases"] if (one["keys"], one["kind"]) != same]
    save(RANKS, kept | {"cases": [*cases, case | {"commit": commit()}]})


def keep_kills(recipe: str, found: dict[str, Any]) -> None:
    kept = load(KILLS)
    recipes = kept["recipes"] | {recipe: found | {"commit": commit()}}
    save(KILLS, kept | {"recipes": recipes})


def ranks_table() -> str:
    kept = load(RANKS)
    rows = []
    measured_at: dict[str, dict[str, None]] = defaultdict(dict)
    for case in kept["cases"]:
        names = " + ".join(map(named, case["keys"])) or "supervised"
        measured_at[case.get("commit", kept["commit"])][names] = None
        flags = ["yes" if case[flag] else "no" for flag in ("declared", "alike")]
        numbers = [f"{case[key]:.1e}" for key in ("distance", "moved")]
        rows.append([names, case["kind"], *flags, *numbers])
    head = ["methods", "data", "declared exact", "ranks alike", "distance", "weights moved by"]
    table = of_words(head, rows, "|---|---|---|---|---:|---:|")
    return f"{table}\n\n{footer(kept['hardware'], measured_at)}"


def footer(hardware: str, measured_at: dict[str, dict[str, None]]) -> str:
    """Where and at which commits. measured_at: commit -> what was measured there; most of it at
    one."""
    first, *others = sorted(measured_at, key=lambda name: -len(measured_at[name]))
    commits = [f"commit {first}"]
    commits += [f"{', '.join(measured_at[name])}: commit {name}" for name in others]
    return f"{hardware}; {'; '.join(commits)}.\n"


def named(key: str) -> str:
    """A method, with the settings under which it is exact where its defaults are not."""
    settings = [f"`{name}={str(value).lower()}`" for name, value in EXACT.get(key, {}).items()]
    return f"`{key}` ({', '.join(settings)})" if settings else f"`{key}`"


def kills_table() -> str:
    kept = load(KILLS)
    columns = ["elsewhere" if phase == "elsewhere" else f"in {phase}" for phase in PHASES]
    head = ["recipe", "kills in all", *columns, "bit-identical"]
    rows = []
    phases: list[str] = []
    measured_at: dict[str, dict[str, None]] = defaultdict(dict)
    for recipe, found in kept["recipes"].items():
        measured_at[found.get("commit", kept["commit"])][f"`{recipe}`"] = None
        different = ", ".join(found["differing"])
        verdict = f"**no**: {different}" if different else "yes"
        rows.append([f"`{recipe}`", str(found["kills"]), *counts(found["phases"]), verdict])
        phases += found["phases"]
    rows.append(["all", str(len(phases)), *counts(phases), ""])
    table = of_words(head, rows, f"|---|{'---:|' * (len(PHASES) + 1)}---|")
    return f"{table}\n\n{footer(kept['hardware'], measured_at)}"


def counts(phases: list[str]) -> list[str]:
    return [str(phases.count(phase)) for phase in PHASES]
