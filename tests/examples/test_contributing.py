"""The walk of CONTRIBUTING, command by command, in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
IGNORED = shutil.ignore_patterns(".*", "__pycache__", "outputs", "multirun", "build", "*.egg-info")


@pytest.mark.slow
def test_the_example_becomes_a_method_that_passes_all_trials(tmp_path):
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    copying, trials = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    test, *_ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    clone = tmp_path / "roux"
    shutil.copytree(REPOSITORY, clone, ignore=IGNORED)
    unindented = re.sub(r"^   ", "", test, flags=re.M)
    (clone / "tests/methods/semi_supervised/test_entropy.py").write_text(
        unindented, encoding="utf-8"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(clone)}
    for line in (copying + trials).splitlines():
        command = line.strip().replace("pytest ", f"{sys.executable} -m pytest -n 0 ")
        done = subprocess.run(
            command,
            shell=True,
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
