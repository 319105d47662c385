"""What a command says before seconds of imports: which run it is, or which names are wrong."""

import subprocess
import sys

from foundation.errors import ConfigErrors, UserError
from foundation.exit_codes import USER_MISTAKE, exit_code
from recipes.cli.main import main
from recipes.runs.start import ready
from tests.support.command import REPOSITORY

# stops where torch would be imported
CODE = """
import sys

class NoTorch:
    def find_spec(self, name, *rest):
        if name in ("torch", "pytorch_lightning", "numpy"):
            raise SystemExit(7)

sys.meta_path.insert(0, NoTorch())
from recipes.cli.main import main

main(sys.argv[1:])
"""


def said_before_torch(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *command], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 7, done.stderr
    return done.stderr


def test_the_run_is_named_before_torch_is_imported():
    said = said_before_torch("recipe=fixmatch", "semi_supervised=uda", "run_dir=outputs/mine")
    assert said == "run: fixmatch, semi_supervised=uda on digits, in outputs/mine\n"


def test_wrong_names_are_reported_before_torch_is_imported():
    said = said_before_torch("recipe=fixmatch", "optimizer.lrr=3", "peft=loar", "data=digit")
    lines = said.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == [
        "peft=loar",
        "data=digit",
        "optimizer.lrr",
    ]


def test_wrong_names_in_a_sweep_are_reported_before_torch_is_imported():
    said = said_before_torch("-m", "seed=1,2", "optimizer.lrr=3", "peft=loar")
    assert [line.split(":")[1].strip() for line in said.splitlines()] == [
        "peft=loar",
        "optimizer.lrr",
    ]


def test_every_mistake_of_a_sweep_is_printed_once(capsys):
    command = ["-m", "optimizer.lrr=3", "trainer.max_steps=-2", "seed=1,2", "recipe=uda,fixmathc"]
    assert main(command) == USER_MISTAKE
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == [
        "optimizer.lrr",
        "recipe=fixmathc",
        "trainer.max_steps",
    ]


def test_every_mistake_is_printed_once(capsys):
    command = ["recipe=fixmatch", "optimizer.lrr=3", "trainer.max_steps=-2"]
    assert exit_code(lambda: len(ready(command).command)) == USER_MISTAKE
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["optimizer.lrr", "trainer.max_steps"]


def test_of_equal_mistakes_the_first_is_kept():
    first = UserError("seed", "is wrong")
    assert ConfigErrors([first, UserError("seed", "is wrong")]).errors[0] is first
