"""What a step was to cost, of what `step_overhead` measured."""

from typing import Any

from benchmarks.clock import Spread
from benchmarks.record import Record
from benchmarks.verdicts import apart, told

ALLOWED = 0.3  # ms a step of ours may cost beyond Lightning's own
SHARE = 1.03  # of the bare loop's time, where the device is the limit
ADDED = "a CPU computes nothing while the host works, so that a step's cost is added"
UNSURE = "what is above the limit has the limit in its interval"
KEPT = 1.01  # of the bytes that the bare loop allocates


def over_lightning(sections: dict[str, dict[str, float]] | None, number: int = 4) -> str:
    """Where ours takes longer than the bare step in Lightning, and where less."""
    if sections is None:
        return "not broken down"
    mine, theirs = sections["Roux"], sections["bare step in Lightning"]
    more = {
        name: mine.get(name, 0.0) - theirs.get(name, 0.0) for name in {*mine, *theirs} - {"all"}
    }
    order = sorted(more, key=lambda name: -more[name])
    said = [f"{name} {more[name] * 1e3:+.2f}" for name in (*order[:number], *order[-number:])]
    return f"by section, ms beyond the bare step in Lightning: {', '.join(said)}"


def by_lightning(found: dict[tuple[str, str], dict[str, Any]]) -> str:
    """What the bare step takes in Lightning's loop, over the bare loop's time, and what ours takes
    beyond that."""
    said = []
    for (regime, case), entry in found.items():
        if regime == "device":
            times = entry["times"]
            alone, beyond = (
                times["bare step in Lightning"]["ratio"].row(),
                times["Roux"]["beyond"].row(),
            )
            said.append(f"{case} {alone['median']:.3f} and {beyond['median'] * 1e3:+.2f} ms")
    return "the bare step in Lightning's loop, and ours beyond that: " + "; ".join(said)


def judge(record: Record, found: dict[tuple[str, str], dict[str, Any]]) -> None:
    """The issue's targets, of what was run of them."""
    if ("host", "five_methods") in found:
        beyond = found["host", "five_methods"]["times"]["Roux"]["beyond"]
        above, met = apart({"ours": Spread([1e3 * value for value in beyond.values])}, ALLOWED)
        why = [over_lightning(found["host", "five_methods"].get("sections"))] if above else []
        record.target(
            "host cost of our step at most Lightning's own plus 0.3 ms with five methods logging",
            f"Lightning's own and {beyond.text(1e3, 2)} ms",
            met,
            "; ".join([*([UNSURE] if met is None else []), *why]),
        )
    device = {
        case: entry["times"]["Roux"]["ratio"]
        for (regime, case), entry in found.items()
        if regime == "device"
    }
    if device:
        above, met = apart(device, SHARE)
        said = ", ".join(f"{case} {told(ratio)}" for case, ratio in device.items())
        why = [*([UNSURE] if met is None else []), ADDED, by_lightning(found)] if above else []
        text = "within 3 % of the bare loop when the device is the limit"
        record.target(text, f"{said}; medians and their 95 % intervals", met, "; ".join(why))
    taken = {case: of["allocated"] for (regime, case), of in found.items() if "allocated" in of}
    if taken:
        said = ", ".join(f"{case} {ours / bare:.3f}" for case, (ours, bare) in taken.items())
        most = max(ours / bare for ours, bare in taken.values())
        record.target(
            "nothing allocated per step that could be kept",
            f"bytes allocated in a step over the bare loop's: {said}",
            most <= KEPT,
            ""
            if most <= KEPT
            else "numbers kept for the log and the masks of terms, a few hundred bytes each",
        )
