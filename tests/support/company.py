"""Trials of many methods in one run: what is wrong with a group, and which of it is to blame."""

import math
import traceback
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from foundation.errors import UserError
from tests.support.groups import Group
from tests.support.lab import trial
from tests.support.settings import CONDITIONAL, UNSEEN
from tests.support.tiny_runs import circumstances, quiet_run_of
from tests.support.twins import original
from tests.support.watch import Watch

STEPS = 2  # of a group: an average of weights has left them, and what a step leaves meets the next


def faults(
    kind: str, keys: Group, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> list[str]:
    """Train these methods together for two steps and say what went wrong: a refusal, an error, a
    number that is not finite, a method without effect at one of its points. settings: arguments by
    method."""
    watch = Watch()
    changes = {
        f"methods.{key}.{name}": value
        for key, arguments in (settings or {}).items()
        for name, value in arguments.items()
    }
    # many changes of one network at the rate of one: without this some groups diverge
    changes |= {"trainer.gradient_clip_val": 1.0}
    steps = circumstances(kind, *keys).get("trainer.max_steps", STEPS)
    changes |= {"trainer.max_steps": steps}
    try:
        config = quiet_run_of(kind, *keys, **changes)
        outcome = trial(config, [watch.rows], before_build=watch.on)
    except UserError as refusal:
        return [f"refused together: {refusal}"]
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return [f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"]
    numbers = [value for row in outcome.history.values() for value in row.values()]
    found = [] if all(map(math.isfinite, numbers)) else ["logged numbers are not finite"]
    idle = [(key, point) for key, point in watch.idle(outcome) if not excused(key, point)]
    return found + [f"{key} has no effect at {point}" for key, point in idle]


def excused(key: str, point: str) -> bool:
    """Whether the tables say that a point is proven elsewhere."""
    return (original(key), point) in CONDITIONAL or (original(key), point) in UNSEEN


def smallest_failing(kind: str, keys: Group, found: Sequence[str] = ()) -> tuple[Group, list[str]]:
    """The first of the smallest subsets that fails as well, and its faults. found: the faults of
    the whole; methods that they name are tried first."""
    suspects = sorted(keys, key=lambda key: not any(key in line.split() for line in found))
    for size in range(1, len(keys)):
        for chosen in combinations(suspects, size):
            subset = tuple(key for key in keys if key in chosen)
            causes = faults(kind, subset)
            if causes:
                return subset, causes
    return keys, list(found) or faults(kind, keys)


def verdict(kind: str, keys: Group) -> str:
    """Empty where the group trains with all effects alive; else its faults and who causes them."""
    found = faults(kind, keys)
    if not found:
        return ""
    subset, causes = smallest_failing(kind, keys, found)
    lines = [f"{' + '.join(keys)} on {kind}:", *found]
    if subset != keys:
        lines += [f"the smallest subset that fails is {' + '.join(subset)}:", *causes]
    words = ", ".join(repr(key) for key in subset)
    lines.append(f"again: tests.support.company.faults({kind!r}, ({words},))")
    return "\n  ".join(lines)
