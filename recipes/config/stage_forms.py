"""What a recipe's file may say of a stage, and loops of stages written out round by round.

    stages:
      teacher: []                                   a run: further overrides
      student:                                      a loop of one run
        repeat: {times: 3}
        overrides: ["methods.noisy_student.teacher='{previous}'"]
      rounds:                                       a loop of several stages
        repeat: {times: 6, until: decide}           at most 6 rounds; ends when `decide` says stop
        stages:
          train: [multi_task=fafs]
          decide:
            program: {_target_: PROGRAM, run: '{train}'}

`{previous}` is the stage before; in a loop, the one that was done before the round. In the first
round of a loop with which a recipe begins, overrides and arguments that name it are left out.

The stages of a loop are written out as `student_1`, `student_2` …, those of a single round without
a number. Inside, `{i}` is the number of the round and `{NAME}` an earlier stage of the same round.
After a loop, `{NAME}` is that stage in the last round that was done. The command repeats any run by
`stages.NAME.repeat.times=3`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foundation.errors import UserError, nearest

Overrides = list[str]
Node = dict[str, Any]
KEYS = ("overrides", "program", "repeat", "stages")
REPEAT = ("times", "until")
MOST = 100  # rounds of a loop: each is composed and checked before the first one starts
NAME = re.compile(r"\w[\w\-]*")
PREVIOUS = "{previous"


@dataclass(frozen=True)
class Round:
    """The place of a stage in a loop. loop: its name. number: of the round, from 1. times: rounds
    at most. until: the stage whose program may end the loop; empty: none. stage: the name without
    the number."""

    loop: str
    number: int
    times: int
    until: str
    stage: str


@dataclass(frozen=True)
class StageForm:
    """One stage. overrides: of a run. program: the node of a program; None: a run."""

    name: str
    overrides: Overrides
    program: Node | None = None
    round: Round | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the command may call it: with a loop's number it is one round, without it all."""
        return (self.round.stage, self.name) if self.round else (self.name,)


# -- errors ----------------------------------------------------------------------------------------
def form_errors(stages: Mapping[str, Any]) -> list[UserError]:
    """Everything that is wrong with the form of the stages; of values of their runs nothing is
    said."""
    errors: list[UserError] = []
    for name, entry in stages.items():
        errors += entry_errors(str(name), entry)
    if errors or not sound(stages):
        return errors
    written = [form.name for form in written_out(stages)]
    twice = sorted({name for name in written if written.count(name) > 1})
    problem = "two stages have this name"
    return [UserError(f"stages.{name}", problem, "rename one of them") for name in twice]


def sound(stages: Mapping[str, Any]) -> bool:
    """Whether every entry is a list or a mapping; `validation` reports the others."""
    return all(isinstance(entry, list | Mapping) for entry in stages.values())


def entry_errors(name: str, entry: Any, in_loop: bool = False) -> Iterator[UserError]:
    key = f"stages.{name}"
    if not NAME.fullmatch(name):
        yield UserError(key, "is no name for a folder", "expected letters, digits and _")
    if not isinstance(entry, Mapping):
        return
    unknown = [other for other in entry if other not in KEYS]
    if unknown:
        yield UserError(f"{key}.{unknown[0]}", "unknown key", nearest(unknown[0], KEYS))
        return
    own = [kind for kind in ("overrides", "program", "stages") if kind in entry]
    if len(own) != 1:
        found = " and ".join(own) or "nothing"
        yield UserError(key, f"found {found}", "expected one of: overrides, program, stages")
        return
    yield from content_errors(key, own[0], entry[own[0]])
    if in_loop and ("repeat" in entry or own == ["stages"]):
        yield UserError(key, "a loop inside a loop", "write its stages into the outer one")
    elif "repeat" in entry:
        yield from repeat_errors(key, entry)
    elif own == ["stages"]:
        yield endless(key, "has stages of its own and no repeat")


def content_errors(key: str, kind: str, content: Any) -> Iterator[UserError]:
    if kind == "overrides":
        if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
            yield UserError(f"{key}.overrides", f"got {content!r}", "expected a list, each text")
    elif not isinstance(content, Mapping) or not content:
        yield UserError(f"{key}.{kind}", f"got {content!r}", "expected a mapping")
    elif kind == "program" and "_target_" not in content:
        remedy = "expected a mapping with the _target_ of a program"
        yield UserError(f"{key}.program", f"found {str(content)[:60]!r}", remedy)
    elif kind == "stages":
        for name, entry in content.items():
            if isinstance(entry, list | Mapping):
                yield from entry_errors(str(name), entry, in_loop=True)
            else:
                yield UserError(f"stages.{name}", f"got {entry!r}", "expected a list or a mapping")


def repeat_errors(key: str, entry: Mapping[str, Any]) -> Iterator[UserError]:
    repeat = entry["repeat"]
    if not isinstance(repeat, Mapping):
        yield UserError(f"{key}.repeat", f"got {repeat!r}", "expected a mapping: {times: 3}")
        return
    unknown = [str(other) for other in repeat if other not in REPEAT]
    if unknown:
        remedy = nearest(unknown[0], REPEAT)
        yield UserError(f"{key}.repeat.{unknown[0]}", "unknown key", remedy)
        return
    times = repeat.get("times")
    if times is None:
        yield endless(key, "a loop without an end")
    elif isinstance(times, bool) or not isinstance(times, int) or not 1 <= times <= MOST:
        expected = f"expected a whole number between 1 and {MOST}"
        yield UserError(f"{key}.repeat.times", f"got {times!r}, {expected}")
    until = repeat.get("until")
    programs = [name for name, own in body_of(key.partition(".")[2], entry).items() if program(own)]
    if until is not None and until not in programs:
        problem = f"'{until}' is no program of this loop"
        yield UserError(f"{key}.repeat.until", problem, nearest(str(until), programs))


def endless(key: str, problem: str) -> UserError:
    return UserError(f"{key}.repeat", problem, "expected times=N, with `until` the most rounds")


# -- reading ---------------------------------------------------------------------------------------
def program(entry: Any) -> Node | None:
    """The node of a program; None for a run."""
    return entry.get("program") if isinstance(entry, Mapping) else None


def body_of(name: str, entry: Any) -> dict[str, Any]:
    """The stages of a loop by name: those it lists, or itself; any other stage is itself."""
    if not isinstance(entry, Mapping):
        return {name: entry}
    stages = entry.get("stages")
    if isinstance(stages, Mapping):
        return {str(own): stage for own, stage in stages.items()}
    return {name: {kind: entry[kind] for kind in ("overrides", "program") if kind in entry}}


def programs(stages: Mapping[str, Any]) -> Iterator[tuple[str, Node, bool]]:
    """(name, node, whether its loop waits for it to say stop) of every program."""
    for name, entry in stages.items():
        if not isinstance(entry, Mapping):
            continue
        repeat = entry.get("repeat") or {}
        for own, stage in body_of(str(name), entry).items():
            node = program(stage)
            if node is not None:
                yield own, node, repeat.get("until") == own


def overrides_of(entry: Any) -> Overrides:
    return list(entry.get("overrides", ()) if isinstance(entry, Mapping) else entry)


# -- writing out -----------------------------------------------------------------------------------
def written_out(stages: Mapping[str, Any]) -> list[StageForm]:
    """All stages in order, those of loops once for every round; of stages without `form_errors`."""
    forms: list[StageForm] = []
    for name, entry in stages.items():
        # of a loop the round that was the last one
        before = forms[-1].names[0] if forms else ""
        if isinstance(entry, Mapping) and "repeat" in entry:
            forms += rounds(str(name), entry, before)
        else:
            forms.append(one_stage(str(name), entry, {"previous": before} if before else {}))
    return forms


def one_stage(
    name: str, entry: Any, words: Mapping[str, str], place: Round | None = None
) -> StageForm:
    """A stage with the words that it may use. In the first round of a loop with which a recipe
    begins, what names `{previous}` is left out."""
    node = program(entry)
    overrides = overrides_of(entry)
    if place is not None and not words["previous"]:
        node = None if node is None else without_previous(node)
        overrides = [text for text in overrides if PREVIOUS not in text]
    node = None if node is None else filled(node, words)
    overrides = [filled(text, words) for text in overrides]
    return StageForm(name, overrides, node, place)


def rounds(name: str, entry: Mapping[str, Any], before: str) -> Iterator[StageForm]:
    """The stages of a loop. before: the stage before it; empty: none."""
    body = body_of(name, entry)
    times = entry["repeat"]["times"]
    until = entry["repeat"].get("until") or ""
    previous = before
    for number in range(1, times + 1):
        words = {"i": str(number), "previous": previous}
        for own, stage in body.items():
            written = own if times == 1 else f"{own}_{number}"
            yield one_stage(written, stage, words, Round(name, number, times, until, own))
            # later stages of this round name this one without its number
            words[own] = previous = written


def without_previous(node: Node) -> Node:
    return {key: value for key, value in node.items() if PREVIOUS not in str(value)}


def filled(value: Any, words: Mapping[str, str]) -> Any:
    """A value with the words of this round: `{i}` -> 2, `{previous.x}` -> `{decide_1.x}`."""
    if isinstance(value, Mapping):
        return {key: filled(child, words) for key, child in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [filled(child, words) for child in value]
    if not isinstance(value, str):
        return value
    if value == "{i}" and "i" in words:
        return int(words["i"])  # an argument of a program
    value = value.replace("{i}", words.get("i", "{i}"))
    text = value
    for word, name in words.items():
        text = re.sub(rf"\{{{re.escape(word)}(?=[.}}])", f"{{{name}", text)
    return text


def known_names(stages: Mapping[str, Any]) -> dict[str, Node | None]:
    """What the command may call a stage -> its program; None for a run."""
    known: dict[str, Node | None] = {}
    for name, entry in stages.items():
        known |= {own: program(stage) for own, stage in body_of(name, entry).items()}
    if sound(stages) and not form_errors(stages):
        for form in written_out(stages):
            known[form.name] = form.program
    return known


def loops_of(forms: Iterable[StageForm]) -> dict[str, Any]:
    """Loop -> what a run must know of it while it runs: `until`, and the stages of each round, by
    their names in the loop."""
    loops: dict[str, Any] = {}
    for form in forms:
        place = form.round
        if place is None:
            continue
        loop = loops.setdefault(place.loop, {"until": place.until, "rounds": []})
        if place.number > len(loop["rounds"]):
            loop["rounds"].append({})
        loop["rounds"][-1][place.stage] = form.name
    return loops
