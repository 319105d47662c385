"""A run that logs to W&B offline, killed for real and resumed: read back from wandb's own files."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.commands.test_resume import weights
from tests.recipes.loggers.test_wandb_logger import finished, items, records
from tests.support.command import REPOSITORY, read_metrics

RUN = (
    *(
        "data.labels_per_class=4",
        "data.batch_size=8",
        "trainer.max_steps=300",
        "trainer.val_every=100",
    ),
    *(
        "trainer.log_every=1",
        "trainer.accelerator=cpu",
        "trainer.progress_bar=false",
        "resume=auto",
    ),
    *(
        "logger=wandb",
        "logger.wandb.mode=offline",
        "logger.wandb.plots=false",
        "logger.wandb.checkpoint=none",
    ),
)


def start(place, folder):
    own = {
        name: str(place / name.lower())
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")
    }
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *RUN, f"run_dir={folder}"],
        cwd=place,
        env=os.environ | own | {"OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"},
        start_new_session=True,
    )


def kill_after(rows, folder, process, everything):
    """SIGKILL once so many steps have been logged; returns the steps of the checkpoint before."""
    last, table = folder / "checkpoints" / "last.ckpt", folder / "metrics.csv"
    while process.poll() is None:
        if last.is_file() and len(table.read_text().splitlines()) > rows:
            break
        time.sleep(0.005)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL) if everything else process.kill()
    process.wait()
    done = weights(folder)["global_step"]
    assert done < read_metrics(folder)[-1]["step"] < 200
    return done


def rows(found):
    return [items(record.history.item) for record in found if record.HasField("history")]


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "everything"), [(105, False), (185, True)])
def test_a_killed_run_has_every_step_once(moment, everything, tmp_path):
    """wandb writes whole blocks, of some sixty steps here. Soon after the checkpoint of step 100
    its file lacks steps that the resumed run does not go through again; long after it, it has some
    that the run does."""
    folder = tmp_path / "run"
    done = kill_after(moment, folder, start(tmp_path, folder), everything)
    (first,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    identity = (folder / "wandb_id").read_text().strip()
    assert start(tmp_path, folder).wait() == 0

    logs = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(logs) == 2 and (folder / "wandb_id").read_text().strip() == identity
    parts = [records(path) if path == first else finished(path) for path in logs]
    assert {r.run.run_id for part in parts for r in part if r.HasField("run")} == {identity}
    killed, resumed = map(rows, parts if logs[0] == first else parts[::-1])
    logged = [
        ((row["step"], name), value)
        for row in (*killed, *resumed)
        for name, value in row.items()
        if name not in ("step", "plan") and not name.startswith("_")
    ]
    assert {n for _, n in Counter(key for key, _ in logged).items()} == {1}
    expected = {
        (row["step"], name): value for row in read_metrics(folder) for name, value in row.items()
    }
    assert dict(logged) == {key: value for key, value in expected.items() if key[1] != "step"}
    assert done == 100 and (moment < 150 or max(row["step"] for row in killed) > done)
