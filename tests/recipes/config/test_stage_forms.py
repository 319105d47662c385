"""What a recipe's file may say of its stages: programs, loops, what they name; and every mistake,
before anything starts."""

import pytest

from foundation.errors import ConfigErrors
from recipes.config.resolve import resolve_command
from recipes.config.stage_forms import form_errors, written_out
from recipes.runs.stages import plan_stages
from recipes.setup.spec import spec_of

NOTE = "tests.support.stage_programs.Note"
LOOP = {
    "first": [],
    "rounds": {
        "repeat": {"times": 2, "until": "note"},
        "stages": {
            "train": ["seed={i}", "network.checkpoint='{previous}'"],
            "note": {"program": {"_target_": NOTE, "run": "{train}", "number": "{i}"}},
        },
    },
    "last": ["network.checkpoint='{train}'"],
}


def test_a_loop_is_written_out_round_by_round():
    forms = written_out(LOOP)
    assert [form.name for form in forms] == [
        "first", "train_1", "note_1", "train_2", "note_2", "last",
    ]  # fmt: skip
    assert forms[1].overrides == ["seed=1", "network.checkpoint='{first}'"]
    assert forms[3].overrides == ["seed=2", "network.checkpoint='{note_1}'"]
    assert forms[4].program == {"_target_": NOTE, "run": "{train_2}", "number": 2}
    assert forms[5].overrides == ["network.checkpoint='{train}'"]


def test_the_first_round_has_no_previous_where_the_recipe_begins_with_it():
    loop = {"a": {"repeat": {"times": 2}, "overrides": ["x='{previous.weights}'", "seed={i}"]}}
    assert [form.overrides for form in written_out(loop)] == [
        ["seed=1"],
        ["x='{a_1.weights}'", "seed=2"],
    ]
    # it is no loop: nothing is left out in silence
    assert written_out({"a": ["x='{previous}'"]})[0].overrides == ["x='{previous}'"]


def test_a_single_round_has_no_number():
    loop = {"a": [], "b": {"repeat": {"times": 1}, "overrides": ["x='{previous}'"]}}
    assert [(form.name, form.overrides) for form in written_out(loop)][1] == ("b", ["x='{a}'"])


def stages(text: str) -> str:
    return f"stages={text}".replace("PROGRAM", PROGRAM).replace("NOTE", NOTE)


def test_former_recipes_are_what_they_were():
    named = {"recipe=noisy_student": "{teacher}", "recipe=crt": None}
    for command, teacher in named.items():
        config = resolve_command([command, "run_dir=unused"]).config
        assert "loops" not in config
        if teacher:
            assert config.stages.student.methods.noisy_student.teacher == teacher


def test_any_run_can_be_repeated_from_the_command():
    command = ["recipe=noisy_student", "stages.student.repeat.times=3", "run_dir=unused"]
    command += ["stages.student.trainer.max_steps=9", "stages.student_2.trainer.max_steps=7"]
    found = resolve_command(command).config.stages
    assert list(found) == ["teacher", "student_1", "student_2", "student_3"]
    teachers = [found[f"student_{i}"].methods.noisy_student.teacher for i in (1, 2, 3)]
    assert teachers == ["{teacher}", "{student_1}", "{student_2}"]
    assert [stage.trainer.max_steps for stage in found.values()] == [1200, 9, 7, 9]


def test_settings_of_a_program_are_keys_of_its_stage():
    loop = (
        f'stages={{a: [], n: {{program: {{_target_: {NOTE}, run: "{{a}}"}}}}}}',
        "stages.n.program.stop_at=5",
    )
    found = resolve_command([*loop, "run_dir=unused"]).config.stages
    assert found.n.program == {"_target_": NOTE, "run": "{a}", "stop_at": 5}


PROGRAM = f"{{program: {{_target_: {NOTE}}}}}"
MISTAKES = {
    "{a: {repeat: {until: n}, stages: {b: [], n: PROGRAM}}}": (
        "stages.a.repeat: a loop without an end; expected times=N, with `until` the most rounds"
    ),
    "{a: {stages: {b: []}}}": "stages.a.repeat: has stages of its own and no repeat",
    "{a: {repeat: {times: 0}, overrides: []}}": (
        "stages.a.repeat.times: got 0, expected a whole number between 1 and 100"
    ),
    "{a: {repeat: {time: 2}, overrides: []}}": (
        "stages.a.repeat.time: unknown key; did you mean 'times'?"
    ),
    "{a: {repeat: {times: 2, until: m}, stages: {b: [], n: PROGRAM}}}": (
        "stages.a.repeat.until: 'm' is no program of this loop; known: n"
    ),
    "{a: {repeat: {times: 2, until: b}, stages: {b: [], n: PROGRAM}}}": (
        "stages.a.repeat.until: 'b' is no program of this loop; known: n"
    ),
    "{a: {overides: []}}": "stages.a.overides: unknown key; did you mean 'overrides'?",
    "{a: {repeat: {times: 2}, stages: {b: {repeat: {times: 2}, overrides: []}}}}": (
        "stages.b: a loop inside a loop"
    ),
    "{a_1: [], b: {repeat: {times: 2}, stages: {a: []}}}": "stages.a_1: two stages have this name",
    "{a: [], n: {program: {_target_: methods.peft.lora.LoRA}}}": (
        "stages.n.program._target_: 'methods.peft.lora.LoRA' is no Program; expected a subclass of"
    ),
    "{a: [], n: {program: {_target_: methods.nothing.Here}}}": (
        "stages.n.program._target_: 'methods' has no 'nothing'"
    ),
    "{a: [], n: {program: {run: x}}}": "stages.n.program: found",
    "{a: [], n: {program: {_target_: NOTE, stop: 3}}}": (
        "stages.n.program.stop: unknown key; did you mean 'stages.n.program.stop_at'?"
    ),
    "{a: [], n: {program: {_target_: NOTE, stop_at: soon}}}": (
        "stages.n.program.stop_at: got 'soon', expected a whole number"
    ),
    '{b: {repeat: {times: 2, until: h}, stages: {a: [], h: {program: {_target_: '
    'tests.support.stage_programs.Halve, run: "{a}"}}}}}': (
        "stages: until=h: 'h' never says stop, so the loop has no use for it"
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_one_line(text):
    with pytest.raises(ConfigErrors) as refusal:
        resolve_command([stages(text), "run_dir=unused"])
    lines = list(map(str, refusal.value.errors))
    assert len(lines) == 1 and lines[0].startswith(MISTAKES[text]), lines


PLANNED = {
    '{a: [], b: ["network.checkpoint=\'{c}\'"]}': (
        "stages.b: network.checkpoint={c} names no stage before it; known: a"
    ),
    '{a: [], b: ["network.checkpoint=\'{a.lst}\'"]}': (
        "stages.b: network.checkpoint={a.lst}: the stage a leaves no 'lst'; did you mean 'last'?"
    ),
    '{a: [], n: {program: {_target_: NOTE, runs: ["{a}", "{a.delta}"]}}}': (
        "stages.n: program.runs=[{a},{a.delta}]: the stage a leaves no 'delta'; known: "
    ),
    '{a: [], n: PROGRAM, c: ["network.checkpoint=\'{n}\'"]}': (
        "stages.c: network.checkpoint={n} names a program, which leaves no checkpoint; expected "
        "one of its artifacts: {n.note}"
    ),
    '{a: ["network.checkpoint=\'{previous}\'"]}': (
        "stages.a: network.checkpoint={previous} names no stage before it; there is none before"
    ),
    '{a: ["network.checkpoint=\'{i}\'"]}': (
        "stages.a: network.checkpoint={i} names no stage before it; {i}, the number of a round, is"
    ),
    # a mistake in a loop is one line, however many rounds follow from it
    '{r: {repeat: {times: 3, until: n}, stages: {a: ["peft=lora", "methods.lora.load=\'{previous.note}\'"], '
    'n: {program: {_target_: NOTE, run: "{b}"}}}}}': (
        "stages.n_1: program.run={b} names no stage before it; known: a, a_1"
    ),
    # the stage that is named has an error of its own, which is the only one
    '{a: ["peft=adapter"], b: ["network.checkpoint=\'{a.nothing}\'"]}': "stages.a: methods.adapter",
}  # fmt: skip


@pytest.mark.parametrize("text", PLANNED)
def test_what_no_stage_leaves_is_refused_in_the_plan(text):
    spec = spec_of(resolve_command([stages(text), "run_dir=unused"]).config)
    with pytest.raises(ConfigErrors) as refusal:
        plan_stages(spec)
    lines = list(map(str, refusal.value.errors))
    assert len(lines) == 1 and lines[0].startswith(PLANNED[text]), lines


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("stages.n.program.stop_att=1", "stages.n.program.stop_att: unknown key; did you mean"),
        ("stages.a.program.x=1", "stages.a.program.x: there is no program 'a'; known: n"),
        ("stages.m.repeat.times=2", "stages.m.repeat.times: there is no stage or loop 'm' to"),
        ("stages.n.trainer.max_steps=1", "stages.n.trainer.max_steps: 'n' is a program and no run"),
    ],
)
def test_mistakes_in_keys_of_stages(key, line):
    text = stages("{a: [], n: PROGRAM}")
    with pytest.raises(ConfigErrors) as refusal:
        resolve_command([text, key, "run_dir=unused"])
    assert str(refusal.value.errors[0]).startswith(line)


def test_a_form_that_is_no_mapping_is_left_to_validation():
    assert form_errors({"a": 3}) == []
