"""How far two processes with half of every batch end from one with the whole, for every method.

    python benchmarks/lab/rank_equality.py                # about five minutes on two cores
    python benchmarks/lab/rank_equality.py --only dora    # one method again, the others are kept
    python benchmarks/lab/rank_equality.py --page         # the table of docs/reliability.md

These are the runs of `tests/conformance/test_ranks.py`: five steps on networks without batch
statistics and dropout, gloo on the CPU. The distance is the largest one of any number that a run is
left with: weights, averages, tables and statistics of methods.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch

from benchmarks.command import Command
from benchmarks.machine import ROOT, commit, hardware
from benchmarks.record import load, save
from benchmarks.table import of_words
from tests.conformance.test_ranks import CASES, Case, config_of, is_exact, two_ranks
from tests.support.lab import distance, trial

KEPT = ROOT / "docs" / "results" / "rank_equality.json"


def compared(case: Case, ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """One case: equal on both ranks, distance from the single process, and how far that one
    went."""
    keys, kind = case
    errors = [seen["error"] for seen in ranks if "error" in seen]
    if errors:
        return {"keys": keys, "kind": kind, "error": errors[0].strip().splitlines()[-1]}
    whole = trial(config_of(keys, kind, 1))
    first, second = (seen["state"] for seen in ranks)
    return {
        "keys": keys,
        "kind": kind,
        "declared": all(map(is_exact, keys)),
        "alike": all(torch.equal(value, second[name]) for name, value in first.items()),
        "distance": distance(first, whole.state),
        "moved": distance(whole.start, whole.state),
    }


def page() -> str:
    kept = load(KEPT)
    rows = []
    later: dict[str, list[str]] = {}
    for case in kept["cases"]:
        names = [f"`{key}`" for key in case["keys"]]
        if "commit" in case:
            later.setdefault(case["commit"], []).extend(names)
        what = [" + ".join(names) or "supervised", case["kind"]]
        if "error" in case:
            rows.append([*what, f"failed: {case['error']}", "", "", ""])
            continue
        flags = ["yes" if case[flag] else "no" for flag in ("declared", "alike")]
        numbers = [f"{case[key]:.1e}" for key in ("distance", "moved")]
        rows.append([*what, *flags, *numbers])
    commits = [f"commit {kept['commit']}"]
    for commit_of, names in later.items():
        commits.append(f"{', '.join(dict.fromkeys(names))}: commit {commit_of}")
    head = ["methods", "data", "declared exact", "ranks alike", "distance", "weights moved by"]
    table = of_words(head, rows, "|---|---|---|---|---:|---:|")
    return f"{table}\n\n{kept['hardware']}; {'; '.join(commits)}.\n"


def measure(only: str | None) -> None:
    """Try the cases, or those of one method, and keep what was found."""
    cases = tuple(case for case in CASES if only is None or only in case[0])
    ranks = two_ranks(cases)
    found = [compared(case, ranks[case]) for case in cases]
    kept: dict[str, Any] = {"cases": found, "hardware": hardware(), "commit": commit()}
    if only is not None:
        before = load(KEPT)
        others = [case for case in before["cases"] if only not in case["keys"]]
        anew = [case | {"commit": kept["commit"]} for case in found]
        kept = before | {"cases": [*others, *anew]}
    save(KEPT, kept)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Command("lab/rank_equality", __doc__)
    parser.add_argument("--page", action="store_true", help="print the table of what is kept")
    keys = sorted({key for case in CASES for key in case[0]})
    about = "a method: its cases anew, beside what is kept"
    parser.add_argument("--only", choices=keys, metavar="METHOD", help=about)
    options = parser.parse_args(argv)
    if not options.page:
        measure(options.only)
    print(page(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
