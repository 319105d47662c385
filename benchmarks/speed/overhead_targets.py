"""What a step was to cost, of what `step_overhead` measured."""

from typing import Any

from benchmarks.record import Record
from benchmarks.verdicts import Spread, apart, listed

Found = dict[tuple[str, str], dict[str, Any]]  # (regime, case) -> what was measured
ALLOWED = 0.3  # ms a step of ours may cost beyond Lightning's own
SHARE = 1.03  # of the bare loop's time, where the device is the limit
KEPT = 1.01  # of the bytes that the bare loop allocates
ADDED = "a CPU computes nothing while the host works, so that a step's cost is added"
UNSURE = "what is above the limit has the limit in its interval"
MASKS = "numbers kept for the log and the masks of terms, a few hundred bytes each"
HOST = "host cost of our step at most Lightning's own plus 0.3 ms with five methods logging"
LIGHTNING = "bare step in Lightning"


def judge(record: Record, found: Found) -> None:
    """The targets of what was run."""
    if ("host", "five_methods") in found:
        host(record, found["host", "five_methods"])
    if any(regime == "device" for regime, _ in found):
        device(record, found)
    taken = {case: of["allocated"] for (_, case), of in found.items() if "allocated" in of}
    if taken:
        ratios = {case: ours / bare for case, (ours, bare) in taken.items()}
        text = ", ".join(f"{case} {ratio:.3f}" for case, ratio in ratios.items())
        met = max(ratios.values()) <= KEPT
        measured = f"bytes allocated in a step over the bare loop's: {text}"
        target = "nothing allocated per step that could be kept"
        record.target(target, measured, met, "" if met else MASKS)


def host(record: Record, entry: dict[str, Any]) -> None:
    beyond = entry["times"]["Roux"]["beyond"]
    above, met = apart({"ours": Spread([1e3 * value for value in beyond.values])}, ALLOWED)
    why = [UNSURE] if met is None else []
    why += [over_lightning(entry.get("sections"))] if above else []
    record.target(HOST, f"Lightning's own and {beyond.text(1e3, 2)} ms", met, "; ".join(why))


def device(record: Record, found: Found) -> None:
    entries = {case: entry for (regime, case), entry in found.items() if regime == "device"}
    ratios = {case: entry["times"]["Roux"]["ratio"] for case, entry in entries.items()}
    above, met = apart(ratios, SHARE)
    why = [UNSURE] if met is None else []
    why += [ADDED, by_lightning(entries)] if above else []
    text = "within 3 % of the bare loop when the device is the limit"
    measured = f"{listed(ratios)}; medians and their 95 % intervals"
    record.target(text, measured, met, "; ".join(why))


def over_lightning(sections: dict[str, dict[str, float]] | None, number: int = 4) -> str:
    """Where ours takes longer than the bare step in Lightning, and where less."""
    if sections is None:
        return "not broken down"
    mine, theirs = sections["Roux"], sections[LIGHTNING]
    names = {*mine, *theirs} - {"all"}
    more = {name: mine.get(name, 0.0) - theirs.get(name, 0.0) for name in names}
    order = sorted(more, key=lambda name: -more[name])
    parts = [f"{name} {more[name] * 1e3:+.2f}" for name in (*order[:number], *order[-number:])]
    return f"by section, ms beyond the bare step in Lightning: {', '.join(parts)}"


def by_lightning(entries: dict[str, dict[str, Any]]) -> str:
    """What the bare step takes in Lightning's loop, over the bare loop's time, and what ours takes
    beyond that."""
    parts = []
    for case, entry in entries.items():
        alone = entry["times"][LIGHTNING]["ratio"].median
        beyond = entry["times"]["Roux"]["beyond"].median * 1e3
        parts.append(f"{case} {alone:.3f} and {beyond:+.2f} ms")
    return "the bare step in Lightning's loop, and ours beyond that: " + "; ".join(parts)
