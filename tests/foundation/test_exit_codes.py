"""How a process ends: its code, and the one line that says why."""

import os
import signal
import subprocess
import sys

import pytest

from foundation.errors import UserError
from foundation.exit_codes import ProcessLost, Terminated, exit_code
from tests.support.command import REPOSITORY

TERMINATED_LINE = "terminated: the same command with resume=auto continues\n"
# the command gets the signal in the import of what it needs first
IN_AN_IMPORT = """
import os, runpy, signal, sys
class Told:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Told())
sys.argv = ["train.py", "recipe=supervised"]
runpy.run_path("{script}", run_name="__main__")
"""


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    "error, code, line",
    [
        (UserError("seed=x", "not a number"), 2, "error: seed=x: not a number"),
        (ProcessLost("rank 1 was killed"), 71, "error: rank 1 was killed"),
        (ProcessLost("rank 1 ended", 2), 2, "error: rank 1 ended"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated("3 steps are saved"), 75, "terminated: 3 steps are saved"),
    ],
)
def test_every_end_has_a_code_and_a_line(error, code, line, capsys):
    assert exit_code(raising(error)) == code
    assert capsys.readouterr().err == f"{line}\n"


def run_python(text, **environment):
    return subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        timeout=60,
    )


@pytest.mark.parametrize("module", ["recipes.cli.main", "recipes.config.resolve"])
def test_sigterm_in_an_import_ends_with_its_code(module):
    outcome = run_python(IN_AN_IMPORT.format(module=module, script=REPOSITORY / "train.py"))
    assert (outcome.returncode, outcome.stderr) == (75, TERMINATED_LINE)


def test_a_further_rank_ends_without_a_word_and_what_was_printed_is_there():
    text = (
        "import os, signal\n"
        "from foundation.exit_codes import BEFORE_END, end_at_sigterm\n"
        "end_at_sigterm(silent=True)\n"
        "BEFORE_END += [lambda: 1 / 0, lambda: print('ranks ended')]\n"
        "print('begun')\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('not reached')\n"
    )
    outcome = run_python(text)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (75, "begun\nranks ended\n", "")


def test_another_handler_is_left_alone_by_an_import():
    before = signal.getsignal(signal.SIGTERM)
    import train  # noqa: F401

    assert signal.getsignal(signal.SIGTERM) is before
