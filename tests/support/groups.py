"""Groups of methods that may all meet, so that every pair which may meet does so in one of them.

A run of six methods is the proof of fifteen pairs. `allowed` asks the declarations, which takes
milliseconds; `covering` chooses greedily.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations

from foundation.errors import UserError
from recipes.contract import Method
from recipes.contract.composition import compose
from recipes.contract.environment import Environment
from recipes.pairs import VIEWS, without_company
from tests.support.tiny_runs import METHODS, canonical, company, declared, listing
from tests.support.twins import doubled, original, twins

# of fewer there are more runs, and a run of more takes longer, since passes of methods multiply
SIZE = 8
Pair = tuple[str, str]
Group = tuple[str, ...]


def known() -> list[str]:
    """The methods that are to meet: those of `configs/`, and with `--doubled` a twin of each."""
    return [*METHODS, *(twins() if doubled() else ())]


@cache
def built(key: str) -> Method:
    """A method under the settings of the trials; only its declaration is read."""
    return listing(key).build(**canonical(key))


def refused(kind: str, *keys: str) -> str:
    """Why these methods cannot be combined under the settings of the trials; empty where they can."""
    together = company(*keys)
    try:
        compose({key: built(key) for key in together}, Environment(kind, VIEWS))
    except UserError as error:
        return without_company(str(error), [key for key in together if key not in keys])
    return ""


@cache
def allowed(kind: str) -> list[Pair]:
    """The pairs that may meet on such data, in the order of the methods."""
    able = [key for key in known() if kind in declared(key).modalities]
    pairs = [(a, b) for a, b in combinations(able, 2) if original(a) != original(b)]
    return [pair for pair in pairs if not refused(kind, *pair)]


def covering(
    pairs: Sequence[Pair],
    wanted: Sequence[Pair] | None = None,
    size: int = SIZE,
    seed: int = 0,
) -> list[Group]:
    """Groups of at most `size`, all of whose pairs are among `pairs`, that together hold all that
    are `wanted`, or all of them.

    Greedy: a group begins with the method that has most partners to meet, and takes up whoever
    meets most of its members for the first time. Equal candidates are drawn by `seed`.
    """
    paired = {key for pair in pairs for key in pair}
    order = [key for key in known() if key in paired]
    place = {key: i for i, key in enumerate(order)}
    # sets of methods as bits: partners that a method may meet, and those it has still to meet
    may = _partners(pairs, place)
    unmet = list(may) if wanted is None else _partners(wanted, place)
    source = random.Random(seed)
    groups = []
    while any(unmet):
        group = _greedy(may, unmet, size, source)
        members = sum(1 << i for i in group)
        for i in group:
            unmet[i] &= ~members
        groups.append(tuple(order[i] for i in sorted(group)))
    return groups


def _partners(pairs: Sequence[Pair], place: Mapping[str, int]) -> list[int]:
    """By place, the partners of a method as bits."""
    found = [0] * len(place)
    for a, b in pairs:
        found[place[a]] |= 1 << place[b]
        found[place[b]] |= 1 << place[a]
    return found


def once_each(keys: Iterable[str], kind: str, size: int = 4) -> list[Group]:
    """The methods in groups of at most `size` that may meet, each in one group."""
    meeting = set(allowed(kind))
    groups: list[Group] = []
    for key in keys:
        fits = (
            i
            for i, group in enumerate(groups)
            if len(group) < size and all((a, key) in meeting or (key, a) in meeting for a in group)
        )
        place = next(fits, None)
        if place is None:
            groups.append((key,))
        else:
            groups[place] = (*groups[place], key)
    return groups


def _greedy(may: list[int], unmet: list[int], size: int, source: random.Random) -> list[int]:
    """One group by place."""
    group = [_best({i: met.bit_count() for i, met in enumerate(unmet) if met}, source)]
    candidates, members = may[group[0]], 1 << group[0]
    while len(group) < size:
        gains = {i: (unmet[i] & members).bit_count() for i in _places(candidates)}
        gains = {i: gain for i, gain in gains.items() if gain}
        if not gains:
            break
        chosen = _best(gains, source)
        group.append(chosen)
        members |= 1 << chosen
        candidates &= may[chosen]
    return group


def _best(values: dict[int, int], source: random.Random) -> int:
    most = max(values.values())
    return source.choice([i for i, value in values.items() if value == most])


def _places(bits: int) -> Iterable[int]:
    return (i for i in range(bits.bit_length()) if bits >> i & 1)
