"""The command line that all benchmarks share, and that each of them has."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import ROOMS
from benchmarks.command import Benchmark
from benchmarks.machine import ROOT

PROGRAMS = sorted(
    file.relative_to(ROOT).with_suffix("")
    for room in ROOMS
    for file in (ROOT / "benchmarks" / room).glob("*.py")
    if '__name__ == "__main__"' in file.read_text(encoding="utf-8")
)
WITHOUT_DEVICE = {"pages"}  # they time nothing


def made():
    command = Benchmark("room/name", "about", repeats=5, warmup=1)
    command.add("batch", {"cpu": 4, "cuda": 64}, "samples", least=1)
    command.add("rows", [8, 16], "sizes", least=8)
    command.rule(lambda options: options.batch != 13, "no batch of 13")
    return command


def test_sizes_that_nobody_asked_for_suit_the_device():
    options = made().parse_args(["--rows", "9"])
    assert (options.batch, options.rows, options.repeats, options.warmup) == (4, [9], 5, 1)
    assert options.by == "cpu"
    options = made().parse_args(["--device", "cuda"])
    assert (options.batch, options.by, options.threads) == (64, "wall", 1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--batch", "0"], "--batch is at least 1"),
        (["--rows", "9", "7"], "--rows is at least 8"),
        (["--batch", "13"], "no batch of 13"),
        (["--batch", "many"], "--batch: invalid int value"),
        (["--beach", "1"], "unrecognized arguments: --beach"),
    ],
)
def test_a_wrong_argument_is_status_2_and_one_line(wrong, said, capsys):
    with pytest.raises(SystemExit) as end:
        made().parse_args(wrong)
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(lines) == 1 and said in lines[0]


def test_what_differs_is_status_1_and_a_line(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert made().run(lambda *_: "they differ", ["--json", str(out)]) == 1
    assert capsys.readouterr().err == "they differ\n" and not out.exists()
    assert made().run(lambda *_: None, ["--json", str(out)]) == 0
    assert out.exists()


def arguments_of(program):
    """What reads a program's command line."""
    module = importlib.import_module(".".join(program.parts))
    return module, module.main if hasattr(module, "main") else module.CLI.parse_args


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_every_program_tells_what_it_does_and_takes_a_device(program, capsys):
    module, parse = arguments_of(program)
    with pytest.raises(SystemExit) as end:
        parse(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and module.__doc__.splitlines()[0] in text
    assert ("--device" in text) != bool(WITHOUT_DEVICE & set(program.parts))
    with pytest.raises(SystemExit) as end:
        parse(["--no-such-argument"])
    assert end.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_every_program_runs_as_a_module_and_pages_as_a_file(program):
    forms = [["-m", ".".join(program.parts)]]
    if "pages" in program.parts:
        forms.append([f"{program}.py"])
    for form in forms:
        command = [sys.executable, *form, "--no-such-argument"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "--no-such-argument" in done.stderr


def test_the_readme_names_every_program():
    text = (Path(ROOT) / "benchmarks" / "README.md").read_text(encoding="utf-8")
    missing = [
        str(program) for program in PROGRAMS if f"`{'/'.join(program.parts[1:])}.py`" not in text
    ]
    assert not missing
