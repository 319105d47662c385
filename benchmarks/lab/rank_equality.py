"""How far two processes with half of every batch end from one with the whole, for every method.

    python benchmarks/lab/rank_equality.py                # about five minutes on two cores
    python benchmarks/lab/rank_equality.py --only dora    # one method again, the others are kept
    python benchmarks/lab/rank_equality.py --page         # the table of docs/reliability.md

These are the runs of `tests/conformance/test_ranks.py`: five steps on networks without batch
statistics and dropout, gloo on the CPU. The distance is the largest one of any number that a run is
left with: weights, averages, tables and statistics of methods.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch

from benchmarks.pages.results import commit, hardware
from tests.conformance.lab import distance, trial
from tests.conformance.test_ranks import CASES, Case, config_of, is_exact, two_ranks

KEPT = Path(__file__).resolve().parents[2] / "docs" / "results" / "rank_equality.json"


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
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    lines = ["| methods | data | declared exact | ranks alike | distance | weights moved by |"]
    lines.append("|---|---|---|---|---:|---:|")
    for case in kept["cases"]:
        name = " + ".join(f"`{key}`" for key in case["keys"]) or "supervised"
        if "error" in case:
            lines.append(f"| {name} | {case['kind']} | failed: {case['error']} | | | |")
            continue
        said = ["yes" if case[flag] else "no" for flag in ("declared", "alike")]
        numbers = [f"{case[key]:.1e}" for key in ("distance", "moved")]
        lines.append(f"| {name} | {case['kind']} | {' | '.join([*said, *numbers])} |")
    later: dict[str, list[str]] = {}
    for case in kept["cases"]:
        if "commit" in case:
            later.setdefault(case["commit"], []).extend(f"`{key}`" for key in case["keys"])
    commits = [f"commit {kept['commit']}"]
    commits += [
        f"{', '.join(dict.fromkeys(keys))}: commit {commit}" for commit, keys in later.items()
    ]
    return "\n".join([*lines, "", f"{kept['hardware']}; {'; '.join(commits)}."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="print the table of what is kept")
    parser.add_argument("--only", help="a method: its cases anew, beside what is kept")
    options = parser.parse_args()
    if options.page:
        print(page(), end="")
        return
    cases = tuple(case for case in CASES if options.only is None or options.only in case[0])
    ranks = two_ranks(cases)
    found = [compared(case, ranks[case]) for case in cases]
    kept: dict[str, Any] = {"cases": found, "hardware": hardware(), "commit": commit()}
    if options.only is not None:
        before = json.loads(KEPT.read_text(encoding="utf-8"))
        others = [case for case in before["cases"] if options.only not in case["keys"]]
        kept = before | {"cases": [*others, *(case | {"commit": kept["commit"]} for case in found)]}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(page(), end="")


if __name__ == "__main__":
    main()
