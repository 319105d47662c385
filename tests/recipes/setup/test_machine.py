"""What this machine lacks is reported by a dry run and before data are read."""

import pytest
import torch

from recipes.setup import machine
from tests.support.command import roux

CPU = "trainer.accelerator=cpu"
EVERYWHERE = {
    "trainer.devices=[0,0]": "trainer.devices=[0, 0]: names a device twice; expected each once, as "
    "[0]",
    "trainer.devices=[]": "trainer.devices=[]: names no device; expected a number of devices or "
    "their indices",
    "trainer.devices=1000000": "trainer.devices: got 1000000, expected one of: auto, -1 or a whole "
    "number between 1 and 1024 or a list, each a whole number at least 0",
    "trainer.strategy=foo": "trainer.strategy=foo: Lightning has no such strategy; ",
    "trainer.strategy=''": "trainer.strategy=: Lightning has no such strategy; ",
}
ON_A_CPU = {
    "trainer.devices=[5]": "trainer.accelerator=cpu, trainer.devices=[5]: ",
    "trainer.devices=[0]": "trainer.accelerator=cpu, trainer.devices=[0]: ",
    "trainer.strategy=single_xla": "trainer.accelerator=cpu, trainer.strategy=single_xla: ",
    "trainer.precision=transformer-engine": "trainer.accelerator=cpu, "
    "trainer.precision=transformer-engine: ",
    "trainer.precision=16-true": "trainer.precision=16-true: a CPU has no fp16 training; ",
}
START = ("trainer.max_steps=1", "trainer.progress_bar=false")


@pytest.fixture
def unread(monkeypatch):
    def read(assembly):
        raise AssertionError("data were read")

    monkeypatch.setattr("recipes.runs.run.read_data", read)


@pytest.mark.parametrize("start", [("dry_run=true",), START])
@pytest.mark.parametrize("override", [*EVERYWHERE, *ON_A_CPU])
def test_one_line_before_data_are_read(override, start, unread, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = roux(CPU, override, *start)
    assert len(outcome.lines) == 1 and outcome.code == 2, outcome.err
    assert outcome.err.startswith(f"error: {(EVERYWHERE | ON_A_CPU)[override]}")
    assert outcome.out == "" and not any(tmp_path.iterdir())


@pytest.mark.parametrize("override", EVERYWHERE)
def test_a_sweep_is_refused_where_no_machine_has_it(override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = roux("-m", "seed=0,1", override)
    assert outcome.code == 2 and EVERYWHERE[override][:25] in outcome.err


def test_stages_are_looked_at_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = roux("recipe=crt", CPU, "trainer.devices=[5]", "dry_run=true")
    assert outcome.code == 2
    assert all("trainer.devices=[5]: " in line for line in outcome.lines)


@pytest.mark.parametrize("devices", ["-1", "auto", "1"])
def test_all_devices_of_a_cpu(devices, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert roux(CPU, f"trainer.devices={devices}", "dry_run=true").code == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for")
def test_a_gpu_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = roux("trainer.accelerator=gpu", "dry_run=true")
    assert len(outcome.lines) == 1 and outcome.code == 2
    assert outcome.err.startswith("error: trainer.accelerator=gpu: ")


def test_what_lightning_takes_is_what_is_asked_for():
    taken = machine.trainer_arguments(machine.TrainerSettings(devices=-1), "32-true")
    assert taken["devices"] == "auto" and taken["precision"] == "32-true"
