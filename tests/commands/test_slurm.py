"""The SLURM script of docs/reliability.md, run as it stands there, where no SLURM is: what `srun`
does of consequence is done by a script of that name, and `scontrol` notes what it was asked."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from tests.commands.test_resume import same, weights
from tests.commands.test_several_ranks import RUN, TWO, finish
from tests.support.command import REPOSITORY

# one process for each task with the variables that srun documents, signals to all of them, the
# highest exit code
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
n = int(os.environ["SLURM_NTASKS"])
own = [os.environ | dict(SLURM_PROCID=str(i), SLURM_LOCALID=str(i), SLURM_NODEID="0") for i in range(n)]
tasks = [subprocess.Popen(sys.argv[1:], env=env) for env in own]
signal.signal(signal.SIGTERM, lambda *_: [task.send_signal(signal.SIGTERM) for task in tasks])
codes = [task.wait() for task in tasks]
print("exit codes", *codes)
sys.exit(max(codes) if min(codes) >= 0 else 137)
"""
LONG = ("trainer.max_steps=60", "trainer.val_every=30")  # long enough to be stopped in the middle
SCONTROL = '#!/bin/sh\necho "$@" >> scontrol.txt\n'


def documented():
    """The script in the documentation."""
    text = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    block = text[text.index("    #!/bin/bash") :]
    lines = block.splitlines()
    end = next(i for i, line in enumerate(lines) if line and not line.startswith("    "))
    return textwrap.dedent("\n".join(lines[:end])).strip() + "\n"


def free_job():
    """A job's number: Lightning makes the port of the meeting from its last four digits."""
    for job in range(1, 9999):
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", 15000 + job)):
                return f"{job:04}"
    raise AssertionError("no free port")


@pytest.fixture
def submit(tmp_path):
    """A function that runs the script on two tasks of a small run, as sbatch would on the first
    node."""
    tools = tmp_path / "tools"
    tools.mkdir()
    python = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", python)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    words = " ".join(word for word in (*RUN, *LONG) if word != "resume=auto")
    script = documented()
    for there, here in (
        ("data=cifar10 data.root=$DATA", words),
        ("trainer.devices=4", "trainer.devices=2"),
    ):
        assert there in script
        script = script.replace(there, here)
    (tmp_path / "job.sh").write_text(
        script.replace("python train.py recipe=fixmatch", f"python {REPOSITORY}/train.py")
    )
    job = {
        "SLURM_JOB_ID": free_job(),
        "SLURM_JOB_NAME": "roux",
        "SLURM_NODELIST": "localhost",
        "SLURM_NNODES": "1",
    }
    job |= {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "RUN": str(tmp_path / "run"),
        "OMP_NUM_THREADS": "1",
    }
    paths = [str(tools), os.environ["PATH"]]

    def run():
        with (tmp_path / "out.txt").open("ab") as out:
            return subprocess.Popen(
                ["bash", "job.sh"],
                cwd=tmp_path,
                env=os.environ | job | {"PATH": os.pathsep.join(paths)},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    return run


def test_the_script_is_sound(tmp_path):
    (tmp_path / "job.sh").write_text(documented())
    assert subprocess.run(["bash", "-n", "job.sh"], cwd=tmp_path, capture_output=True).stderr == b""
    assert all(line.startswith("#SBATCH --") for line in documented().splitlines()[1:3])


@pytest.mark.slow
def test_a_job_that_gets_the_signal_to_end_is_put_back_and_resumes(submit, tmp_path):
    finish(*TWO, *LONG, f"run_dir={tmp_path / 'alone'}")
    job, last = submit(), tmp_path / "run" / "checkpoints" / "last.ckpt"
    while job.poll() is None and not last.is_file():
        time.sleep(0.01)
    srun = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True)
    os.kill(int(srun.stdout.split()[0]), signal.SIGTERM)
    assert job.wait() == 75, (tmp_path / "out.txt").read_text()
    assert "exit codes 75 75" in (tmp_path / "out.txt").read_text()
    assert (tmp_path / "scontrol.txt").read_text().startswith("requeue 0")
    assert weights(tmp_path / "run")["global_step"] < 60

    assert submit().wait() == 0, (tmp_path / "out.txt").read_text()
    assert len((tmp_path / "scontrol.txt").read_text().splitlines()) == 1
    a, b = weights(tmp_path / "run"), weights(tmp_path / "alone")
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        assert same(a[part], b[part]), part
