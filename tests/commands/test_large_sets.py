"""Runs whose data or tables are too large for memory: an interrupted one ends as a whole one, with
texts from the cache folder and with tables on the host."""

import shutil

import pytest
import torch

from recipes.services import tables
from tests.commands.test_resume import interrupt_at, same, weights
from tests.support.command import QUIET, roux, train

SHORT = (
    "data.labels_per_class=4",
    "data.batch_size=8",
    "trainer.max_steps=6",
    "trainer.log_every=1",
)
OFTEN = ("trainer.val_every=3",)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "roux"


def interrupted_and_resumed(place, monkeypatch, *command):
    """The states of a whole run and of one that was interrupted after its checkpoint."""
    train(place / "whole", *command)
    with monkeypatch.context() as patch:
        interrupt_at(5, patch)
        assert roux(*QUIET, *command, f"run_dir={place}/cut").code == 130
    train(place / "cut", *command, f"resume={place}/cut")
    return weights(place / "whole"), weights(place / "cut")


@pytest.mark.slow
def test_tables_on_the_host(place, monkeypatch):
    monkeypatch.setattr(tables, "HOST_BYTES", 0)
    method = "semi_supervised=temporal_ensembling"
    whole, cut = interrupted_and_resumed(place, monkeypatch, *SHORT, *OFTEN, method)
    table = whole["state_dict"]["method_modules.temporal_ensembling.label.table"]
    assert table.dtype == torch.float16 and table.any()
    assert same(whole["state_dict"], cut["state_dict"])
    assert same(whole["optimizer_states"], cut["optimizer_states"])


@pytest.mark.slow
def test_texts_in_the_cache_folder(place, home, monkeypatch):
    words = ("good", "bad", "dull", "fine", "plot", "odd")
    rows = [f"{' '.join(words[(i * k) % 6] for k in range(1, 9))} {i},{i % 2}" for i in range(90)]
    file = place / "texts.csv"
    file.write_text("\n".join(["text,label", *rows, ""]))
    data = ["recipe=fixmatch", "data=text_file", f"data.source.train_file={file}"]
    command = (*data, *SHORT, *OFTEN, "data.source.cache=always")
    whole, cut = interrupted_and_resumed(place, monkeypatch, *command)
    assert same(whole["state_dict"], cut["state_dict"]) and (home / "words").is_dir()
    # from memory, and from a cache that is built again
    train(place / "memory", *command, "data.source.cache=never")
    assert same(whole["state_dict"], weights(place / "memory")["state_dict"])
    shutil.rmtree(home)
    train(place / "again", *command)
    assert same(whole["state_dict"], weights(place / "again")["state_dict"])
