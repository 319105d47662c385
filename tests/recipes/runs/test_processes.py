"""Which process of a run has ended, and SIGTERM around a run's end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from pytorch_lightning.utilities.exceptions import SIGTERMException

from datamodules.workers import print_error, whole_batches
from foundation.exit_codes import PROCESS_LOST, ProcessLost, Terminated
from recipes.checkpointing.preemption import Termination
from recipes.runs import processes
from recipes.runs.processes import lost_processes

ALONE, TWO = SimpleNamespace(world_size=1), SimpleNamespace(world_size=2)
GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer"


@pytest.fixture
def rank(monkeypatch):
    """A function that makes rank 1 a process which ended so."""
    monkeypatch.setattr(processes, "RANKS", [])
    monkeypatch.setattr(processes, "POLL", 0.01)

    def ended(code):
        end = f"os.kill(os.getpid(), {-code})" if code < 0 else f"os._exit({code})"
        process = subprocess.Popen([sys.executable, "-S", "-c", f"import os; {end}"])
        process.wait()
        processes.RANKS.append(process)

    return ended


def loss_of(text, trainer):
    with pytest.raises(ProcessLost) as caught, lost_processes(trainer):
        raise RuntimeError(text)
    return caught.value


def test_a_killed_rank_is_named(rank):
    rank(-9)
    lost = loss_of(GLOO, TWO)
    assert str(lost) == (
        "rank 1 was killed by SIGKILL, possibly out of memory; the same command with resume=auto "
        "continues"
    )
    assert lost.code == PROCESS_LOST == 71


def test_a_failed_rank_gives_its_exit_code(rank):
    rank(2)
    lost = loss_of(GLOO, TWO)
    assert lost.code == 2 and str(lost).startswith("rank 1 ended with exit code 2; ")


def test_a_further_rank_knows_that_the_first_has_ended(rank, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    lost = loss_of(GLOO, TWO)
    assert str(lost).startswith("the first rank has ended; ") and lost.code == PROCESS_LOST


@pytest.mark.parametrize(
    "text, shown",
    [
        (
            "DataLoader worker (pid 77) is killed by signal: Killed. ",
            "(pid 77) is killed by signal: Killed",
        ),
        (
            "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
            "(pid(s) 7, 8) exited unexpectedly",
        ),
    ],
)
def test_a_killed_worker_is_one_line(text, shown):
    lost = loss_of(text, ALONE)
    assert str(lost).startswith(f"a data worker {shown}; the same command with resume=auto")
    assert "\n" not in str(lost) and lost.code == PROCESS_LOST


@pytest.mark.parametrize("broken", [ConnectionResetError, ConnectionRefusedError, EOFError])
def test_a_connection_that_a_killed_worker_breaks_is_a_lost_worker(broken):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()

    class Batches:
        _workers = (worker,)

        def __iter__(self):
            yield "first"
            worker.kill()
            raise broken

    batches = Batches()
    with pytest.raises(ProcessLost) as caught, lost_processes(ALONE):
        list(whole_batches(batches))
    assert str(caught.value).startswith(f"a data worker (pid(s) {worker.pid}) exited unexpectedly")


def test_a_connection_that_breaks_while_all_workers_live_is_raised_as_it_is():
    def batches():
        yield "first"
        raise ConnectionResetError("of a mount")

    with pytest.raises(ConnectionResetError, match="of a mount"):
        list(whole_batches(batches()))


def test_a_worker_whose_reader_goes_away_says_nothing(capsys):
    print_error(ConnectionResetError, ConnectionResetError("by peer"), None)
    assert capsys.readouterr().err == ""
    print_error(ValueError, ValueError("shapes differ"), None)
    assert capsys.readouterr().err == "ValueError: shapes differ\n"


@pytest.mark.parametrize("trainer", [ALONE, TWO])
def test_other_errors_pass(trainer):
    with pytest.raises(RuntimeError, match="shapes differ"), lost_processes(trainer):
        raise RuntimeError("shapes differ")


# -- SIGTERM ---------------------------------------------------------------------------------------
@pytest.fixture
def handler():
    """A handler that must be there again."""

    def own(*_):
        raise AssertionError("not while the run listens")

    before = signal.signal(signal.SIGTERM, own)
    yield own
    signal.signal(signal.SIGTERM, before)


def test_without_a_signal_the_handler_is_as_before(handler):
    termination = Termination(1)
    with termination.kept():
        termination.listen()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_signal_that_nobody_looked_at_ends_the_run_and_a_second_one_changes_nothing(handler):
    termination = Termination(1)
    with pytest.raises(SIGTERMException), termination.kept():
        termination.listen()
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "Python gives up handlers of its own"


def test_a_worker_that_ends_by_the_same_signal_is_no_loss(handler):
    termination = Termination(1)
    with pytest.raises(Terminated), termination.kept(), lost_processes(ALONE):
        termination.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly")


def test_an_error_of_the_run_is_not_hidden(handler):
    termination = Termination(1)
    with pytest.raises(ZeroDivisionError), termination.kept():
        termination.listen()
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is handler
