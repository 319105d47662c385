"""Damaged checkpoints and run folders: each is one line with the file, what was found and what was
expected, with exit code 2 and without a traceback."""

import copy
import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from foundation.errors import UserError
from foundation.exit_codes import exit_code
from recipes.checkpointing.files import load_checkpoint
from recipes.config.resolve import resolve_command
from recipes.engine.recipe import Recipe
from recipes.predict.loading import load
from recipes.runs.start import start
from recipes.setup.spec import RunSpec
from tests.commands.conftest import place  # noqa: F401
from tests.recipes.runs.damage import FITTING, ORIGIN, STRUCTURE
from tests.support.command import read_metrics
from tests.support.settings import SHARED, TINY

COMMAND = (
    *SHARED,
    *TINY["image"],
    *("recipe=fixmatch", "trainer.max_steps=6", "trainer.val_every=2", "data.val_fraction=0.1"),
)


@pytest.fixture(scope="module")
def composed():
    """The config of the run: composing it takes longer than a trial."""
    return resolve_command([*COMMAND, "run_dir=run"]).config


class Stop(Exception):
    """Ends a run in the middle, as a kill does."""


def spec_of(composed, folder: Path, resume: str | None = "auto") -> RunSpec:
    values = {"run_dir": str(folder), "resume": resume}
    return RunSpec(copy.deepcopy(composed), (*COMMAND, f"run_dir={folder}")).having(values)


@pytest.fixture(scope="module")
def cut(composed, tmp_path_factory):
    """A run that was killed after 5 of 6 steps: its last checkpoint is of step 4."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    publish = Recipe.publish

    def stop(self, done, lr):
        publish(self, done, lr)
        if done == 5:
            raise Stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Recipe, "publish", stop)
        start(spec_of(composed, folder, resume=None))
    return folder


@pytest.fixture
def run(cut, tmp_path):
    return Path(shutil.copytree(cut, tmp_path / "run"))


@pytest.fixture(scope="module")
def content(cut):
    return torch.load(cut / "checkpoints" / "last.ckpt", weights_only=True)


def damaged(content, change, path: Path) -> Path:
    changed = copy.deepcopy(content)
    change(changed)
    torch.save(changed, path)
    return path


def refusal(action) -> str:
    """The one line with which an action ends."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code(lambda: action() and 0)
    lines = [line for line in err.getvalue().splitlines() if not line.startswith("note: ")]
    assert code == 2 and len(lines) == 1, (code, lines)
    return lines[0].removeprefix("error: ")


# -- checkpoints -----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", STRUCTURE)
def test_a_checkpoint_of_another_structure(kind, content, tmp_path):
    change, words = STRUCTURE[kind]
    path = damaged(content, change, tmp_path / "odd.ckpt")
    line = refusal(lambda: load_checkpoint(str(path)))
    assert line.startswith(f"resume: '{path}' is no") and words in line and "expected" in line, line


@pytest.mark.parametrize("kind", FITTING)
def test_a_checkpoint_that_does_not_fit_its_run(kind, content, composed, run):
    change, words = FITTING[kind]
    damaged(content, change, run / "checkpoints" / "last.ckpt")
    line = refusal(lambda: start(spec_of(composed, run)))
    assert words in line and str(run) in line, line


@pytest.mark.parametrize("kind", ORIGIN)
def test_a_run_that_cannot_be_predicted_with(kind, content, tmp_path):
    change, words = ORIGIN[kind]
    path = damaged(content, change, tmp_path / "odd.ckpt")
    line = refusal(lambda: load(path))
    assert line.startswith(f"run: '{path}'") and words in line, line


# -- files of the folder ---------------------------------------------------------------------------
def write(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


def make_folder(name: str):
    def make(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return make


def link_to_nothing(folder):
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").symlink_to("nowhere")


def a_file_of_that_name(folder):
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").write_text("x")


DEEP = b"[" * 100_000
FOLDERS = {
    "metrics_empty": (write("metrics.json", b""), "metrics.json' is not JSON"),
    "metrics_broken": (write("metrics.json", b'{"a": '), "metrics.json' is not JSON"),
    "metrics_binary": (write("metrics.json", b"\xff\x00"), "metrics.json' is not JSON"),
    "metrics_list": (write("metrics.json", b"[1]"), "metrics.json' is damaged: found list"),
    "metrics_text": (write("metrics.json", b'{"a": "x"}'), "damaged: found str at a"),
    "metrics_deep": (write("metrics.json", DEEP), "metrics.json' is not JSON"),
    "config_broken": (write("config.yaml", b"a: [1"), "config.yaml': its config is not YAML"),
    "config_binary": (write("config.yaml", b"\xff\x00"), "config.yaml': cannot be read"),
    "config_list": (write("config.yaml", b"- 1"), "config.yaml': its config is not a mapping"),
    "config_tag": (write("config.yaml", b"a: !!python/name:os.x y"), "found the YAML tag"),
    "lock_folder": (make_folder(".writing"), ".writing' is a folder; expected a file"),
    "part_folder": (make_folder("checkpoints/.last.ckpt.part"), ".part' is a folder; expected"),
    "last_folder": (make_folder("checkpoints/last.ckpt"), "last.ckpt' is a folder; expected"),
    "best_folder": (make_folder("checkpoints/best.ckpt"), "best.ckpt' is a folder; expected"),
    "csv_folder": (make_folder("metrics.csv"), "metrics.csv' is a folder; expected a file"),
    "page_folder": (make_folder("report.html"), "report.html' is a folder; expected a file"),
    "checkpoints_nowhere": (
        link_to_nothing,
        "checkpoints' is a link to nothing; expected a folder",
    ),
    "checkpoints_file": (a_file_of_that_name, "checkpoints' is a file; expected a folder"),
    "both_checkpoints": (
        lambda f: [
            (f / "checkpoints" / n).write_bytes(b"x") for n in ("last.ckpt", "previous.ckpt")
        ],
        "previous.ckpt' is no checkpoint",
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_damaged_folder(kind, composed, run):
    damage, words = FOLDERS[kind]
    if kind.startswith("config"):  # read where the run is finished, to compare the settings
        (run / "metrics.json").write_text("{}")
    damage(run)
    line = refusal(lambda: start(spec_of(composed, run)))
    assert words in line and str(run) in line, line


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a": 3}', b"\xff", DEEP])
def test_damaged_stages(data, tmp_path):
    from recipes.runs.stages import read_done

    (tmp_path / "stages.json").write_bytes(data)
    line = refusal(lambda: read_done(tmp_path))
    assert f"'{tmp_path / 'stages.json'}' is " in line
    assert "expected the metrics of each finished stage" in line


@pytest.mark.parametrize("data", [b"a: [1", b"\xff\x00", b"- 1", b"a: !!python/name:os.x y", b""])
def test_the_search_for_an_unfinished_run_passes_over_a_damaged_one(data, composed, run):
    from recipes.runs.run_folder import newest_unfinished

    config = spec_of(composed, run.parent / "new").config
    newer = run.parent / "zzz"
    newer.mkdir()
    (newer / "config.yaml").write_bytes(data)
    assert newest_unfinished(config) == run


# -- what is mended on the way ---------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["binary", "cut", "gone"])
def test_the_rows_of_a_lost_table_come_from_the_checkpoint(kind, composed, run, cut, caplog):
    table = run / "metrics.csv"
    if kind == "gone":
        table.unlink()
    else:
        table.write_bytes(b"\xff\x00" if kind == "binary" else table.read_bytes()[:60])
    best = run / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:-40])
    leftovers = [run / ".plan.txt.abcd1234", run / "checkpoints" / ".last.ckpt.part"]
    for path in leftovers:
        path.write_text("x")
    metrics = start(spec_of(composed, run)).metrics
    text = " ".join(record.getMessage() for record in caplog.records)
    assert f"metrics.csv' is {'gone' if kind == 'gone' else 'damaged'}; it is written anew" in text
    assert "best.ckpt' is damaged; the best checkpoint is chosen anew" in text
    assert not any(path.exists() for path in leftovers)
    # the killed run logged step 5 after its last checkpoint, and the resumed one logs it again
    assert read_metrics(run)[:5] == read_metrics(cut)
    assert json.loads((run / "metrics.json").read_text()) == pytest.approx(metrics)
    assert load(run, "best") is not None


def test_a_moved_run_keeps_its_best_checkpoint(run, content):
    from recipes.checkpointing.best import BestCheckpoint

    name, state = next(
        (name, state) for name, state in content["callbacks"].items() if "ModelCheckpoint" in name
    )
    best = BestCheckpoint(run, "val/accuracy", run / "checkpoints" / "last.ckpt")
    assert best.state_key.startswith("ModelCheckpoint{") and name.startswith("ModelCheckpoint{")
    best.load_state_dict(state)
    assert best.best_model_score == state["best_model_score"]
    assert best.best_model_path == str(run / "checkpoints" / "best.ckpt")
    assert list(best.best_k_models) == [best.kth_best_model_path] == [best.best_model_path]


def test_folders_are_made_before_they_are_owned(composed, tmp_path):
    from recipes.runs.run_folder import claimed, released

    named = str(tmp_path / "outputs" / "12-00-00")
    settled = [claimed(named, makes=True) for _ in range(3)]
    assert [s.run_dir for s in settled] == [named, f"{named}_2", f"{named}_3"]
    assert claimed(named, makes=False).run_dir == f"{named}_4"
    assert not Path(f"{named}_4").exists()
    for one in reversed(settled):
        with pytest.raises(UserError), released(one):
            raise UserError("refused")
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_checkpoints_stays_when_a_run_begins_anew(tmp_path):
    from recipes.checkpointing.files import clear

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".last.ckpt.part").write_text("x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    clear(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints").is_symlink()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("kept", [None, "metrics.csv", "checkpoints"])
def test_a_refused_stage_leaves_no_folder_unless_a_stage_has_results(kept, tmp_path):
    """The folder of the recipe holds config.yaml by then, which would stop the mended command."""
    from recipes.checkpointing.files import run_dir_errors, run_folder

    folder = tmp_path / "outputs" / "run"
    with pytest.raises(UserError, match="refused"), run_folder(folder):
        (folder / "config.yaml").write_text("x")
        if kept:
            (folder / "first" / kept).mkdir(parents=True)
        with run_folder(folder / "second"):
            (folder / "second" / "plan.txt").write_text("x")
            raise UserError("refused")
    assert (folder / "config.yaml").exists() == bool(kept)
    assert (tmp_path / "outputs").exists() == bool(kept)
    assert not (folder / "second").exists()
    assert bool(run_dir_errors(str(folder))) == bool(kept)


def test_a_disk_that_turned_read_only_does_not_hide_its_line(tmp_path, monkeypatch):
    from recipes.checkpointing.files import run_folder, writing

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    refused = pytest.raises(UserError, match="cannot be written")
    with refused, run_folder(tmp_path), writing(tmp_path):
        (tmp_path / "plan.txt").write_text("x")
        for name in ("unlink", "rmdir"):
            monkeypatch.setattr(Path, name, refuse)
        raise UserError("metrics.csv: cannot be written (Read-only file system)")
