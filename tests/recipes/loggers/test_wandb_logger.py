"""W&B for real, offline: the run is written by wandb and read back from its own transaction log."""

import json
import struct
import time
from types import SimpleNamespace

import pytest

from foundation.errors import UserError
from recipes.loggers.build import build_loggers, finish_loggers, start_loggers
from recipes.loggers.wandb_log import logged_names
from recipes.loggers.weights_and_biases import WeightsAndBiases, labels
from tests.support.example_record import digits_record

NODE = {
    "_target_": "recipes.loggers.weights_and_biases.WeightsAndBiases",
    "mode": "offline",
    "project": "roux-test",
}
BLOCK = 32768


def records(path):
    """The records of a .wandb file: LevelDB's log format, blocks of 32 KiB, a header of 7 bytes
    before each part (checksum, length, and whether it is a whole record, or the first, a middle or
    the last part of one)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, parts, found = 7, b"", []
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if place + 7 + length > len(data):
            break  # wandb's service is still writing
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def finished(path, seconds=30):
    """The records of a run that has ended: wandb's service may write the last of them after the
    run's end returns."""
    deadline = time.monotonic() + seconds
    while True:
        found = records(path)
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < deadline, f"{path} has no exit record"
        time.sleep(0.1)


def items(entries):
    """Key-value entries of a record, nested where their keys are."""
    found = {}
    for entry in entries:
        *outer, last = [entry.key] if entry.key else entry.nested_key
        place = found
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(entry.value_json)
    return found


def test_runs_are_named_by_recipe_data_and_seed_and_grouped_without_the_seed():
    config = {
        "seed": 3,
        "run_dir": "a",
        "recipe": "fixmatch",
        "chosen": {"recipe": "fixmatch", "data": "digits", "peft": "none", "long_tail": "[a,b]"},
        "methods": {"fixmatch": {"threshold": 0.95}, "a": {}, "b": {}},
        "data": {"seed": 3, "size": 4},
    }
    found = labels(config)
    assert found["name"] == "fixmatch-digits-3"
    assert found["tags"] == ["fixmatch", "digits", "long_tail", "a", "b"]
    other_seed = {**config, "seed": 4, "run_dir": "b", "data": {"seed": 4, "size": 4}}
    assert labels(other_seed)["group"] == found["group"]
    assert labels({**config, "data": {"seed": 3, "size": 5}})["group"] != found["group"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """wandb's caches and keys inside the test's folder."""
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path


def train(run_dir, steps, resume_step=None, **settings):
    loggers = build_loggers({"wandb": {**NODE, **settings}}, run_dir, resume_step)
    start_loggers(
        loggers, {"seed": 3, "methods": {"fixmatch": {"threshold": 0.95}}}, "order  fixmatch > ema"
    )
    for step in steps:
        for logger in loggers:
            logger.log_metrics({"train/loss": 1 / step, "epoch": 0}, step=step)
    for name in ("last", "best"):
        (run_dir / f"{name}.ckpt").write_bytes(name.encode() * 1000)
    files = {kind: run_dir / f"{kind}.ckpt" for kind in ("last", "best")}
    finish_loggers(loggers, digits_record(), {**files, "missing": run_dir / "missing.ckpt"})


def test_an_offline_run_holds_everything_and_a_resumed_one_its_id(home):
    import wandb

    run_dir = home / "run"
    train(run_dir, (10, 20), tags=["a", "b"])
    assert wandb.run is None, "the next run of a sweep must begin its own"
    (log,) = (run_dir / "wandb").glob("offline-run-*/*.wandb")
    found = finished(log)
    begun = next(record.run for record in found if record.HasField("run"))
    assert begun.run_id == (run_dir / "wandb_id").read_text().strip()
    assert begun.project == "roux-test" and sorted(begun.tags) == ["a", "b"]

    config = {}
    for record in found:
        config |= items(record.run.config.update) | items(record.config.update)
    assert config["seed"] == 3 and config["methods"] == {"fixmatch": {"threshold": 0.95}}

    axes = [
        (record.metric.name or record.metric.glob_name, record.metric.step_metric)
        for record in found
    ]
    assert ("*", "step") in axes and not any("global_step" in name + axis for name, axis in axes)
    rows = [items(record.history.item) for record in found if record.HasField("history")]
    curve = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert curve == [(10, 0.1), (20, 0.05)]
    assert all("step" in row and "epoch" not in row for row in rows)

    media = {name: value for row in rows for name, value in row.items() if isinstance(value, dict)}
    assert media["plan"]["_type"] == "html-file"
    wanted = {
        f"report/{name}"
        for name in ("learning_curves", "confusion/label", "class_accuracy/label", "views")
    }
    assert wanted <= media.keys()
    for name in wanted:
        assert media[name]["_type"] == "image-file"
        picture = log.parent / "files" / media[name]["path"]
        assert picture.read_bytes().startswith(b"\x89PNG")
    artifact = next(
        r.artifact for r in found if r.HasField("artifact") and r.artifact.type == "model"
    )
    assert artifact.name == f"model-{begun.run_id}" and set(artifact.aliases) == {"latest", "best"}
    metadata = json.loads(artifact.metadata)
    validated = [row for row in digits_record().history if "val/accuracy" in row]
    best = max(validated, key=lambda row: row["val/accuracy"])
    assert metadata["kind"] == "best" and metadata["step"] == best["step"]
    assert metadata["val/accuracy"] == pytest.approx(best["val/accuracy"])
    assert not any(name.startswith("test/") for name in metadata), "those are of the last step"
    assert (begun.display_name, begun.run_group[:4]) == ("run-3", "run-")
    summary = {}
    for record in found:
        summary |= items(record.summary.update)
    assert summary["test/accuracy"] == pytest.approx(digits_record().final["test/accuracy"])

    train(run_dir, (30,), resume_step=20, checkpoint="none", plots=False)
    (again,) = set((run_dir / "wandb").glob("offline-run-*/*.wandb")) - {log}
    found = finished(again)
    assert next(r.run for r in found if r.HasField("run")).run_id == begun.run_id
    rows = [items(record.history.item) for record in found if record.HasField("history")]
    assert [row["step"] for row in rows if "train/loss" in row] == [30]
    assert not any(
        record.HasField("artifact") and record.artifact.type == "model" for record in found
    )


def losses(log):
    rows = [items(record.history.item) for record in finished(log) if record.HasField("history")]
    return [row["step"] for row in rows if "train/loss" in row]


def test_steps_that_the_files_hold_are_not_logged_again_and_lost_ones_are_made_up(home):
    run_dir = home / "run"
    train(run_dir, range(1, 41), checkpoint="none", plots=False)
    (log,) = (run_dir / "wandb").glob("offline-run-*/*.wandb")
    assert losses(log) == list(range(1, 41)) and set(logged_names([log])) == set(range(41))
    whole = log.read_bytes()  # only now: wandb's service may write the last records after the end
    counts = set()
    for cut in range(0, len(whole), 97):  # as after a power cut: a file without its end
        log.write_bytes(whole[:cut])
        there = {step for step, names in logged_names([log]).items() if "train/loss" in names}
        assert there == set(range(1, len(there) + 1))
        counts.add(len(there))
        if len(there) >= 20:
            break
    assert len(counts) > 10 and len(there) < 30
    train(run_dir, range(31, 46), resume_step=30, checkpoint="none", plots=False)
    (again,) = set((run_dir / "wandb").glob("offline-run-*/*.wandb")) - {log}
    assert losses(again) == list(range(len(there) + 1, 46))
    log.write_bytes(whole)
    # wandb's name for the folder of a run that begins within the second of an earlier one
    again = again.parent.rename(again.parent.with_name(f"{log.parent.name}-1")) / again.name
    train(run_dir, range(41, 51), resume_step=40, checkpoint="none", plots=False)
    (third,) = set((run_dir / "wandb").glob("offline-run-*/*.wandb")) - {log, again}
    assert losses(third) == list(range(46, 51))


def test_without_a_key_the_user_reads_one_line(home):
    loggers = build_loggers({"wandb": {**NODE, "mode": "online"}}, home / "run")
    with pytest.raises(UserError, match=r"logger\.wandb\.mode=offline") as caught:
        start_loggers(loggers, {}, "")
    assert "\n" not in str(caught.value)
    assert not (home / "run" / "wandb_id").exists()


@pytest.mark.parametrize(("offline", "folders"), [(True, 2), (True, 1), (False, 2)])
def test_a_resumed_offline_run_says_how_its_folders_are_uploaded(
    offline, folders, tmp_path, capsys
):
    run = WeightsAndBiases(mode="offline").open(tmp_path)
    ends = []
    run._experiment = SimpleNamespace(
        id="abc", offline=offline, finish=lambda exit_code: ends.append(exit_code)
    )
    for name in ["run-abc"] * folders + ["run-other"]:
        folder = tmp_path / "wandb" / f"offline-run-{len(list(tmp_path.glob('wandb/*')))}"
        folder.mkdir(parents=True)
        (folder / f"{name}.wandb").touch()
    run.close()
    assert ends == [0]
    line = (
        "W&B: this run was resumed and has 2 offline folders; upload them as one run: wandb sync "
        f"{tmp_path}/wandb/offline-run-*\n"
    )
    assert capsys.readouterr().err == (line if offline and folders == 2 else "")
