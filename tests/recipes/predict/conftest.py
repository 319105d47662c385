"""Runs begin in an empty folder, without a network; two of them are shared by all tests."""

import pytest

from datamodules.sources.text_file import TextFile
from tests.commands.conftest import place  # noqa: F401
from tests.support.command import write_csv
from tests.support.predict_runs import BOTH, Shared, digits, texts


@pytest.fixture(scope="session")
def pictures_run(tmp_path_factory):
    """Two tasks, an averaged network, corrected logits."""
    folder = tmp_path_factory.mktemp("pictures") / "run"
    correction = ("long_tail=posthoc_logit_adjustment", "methods.posthoc_logit_adjustment.tau=2")
    said = digits(folder, BOTH, "averaging=ema", "methods.ema.decay=0.5", *correction)
    return Shared(folder, said, None)


@pytest.fixture(scope="session")
def texts_run(tmp_path_factory):
    """LoRA, a tokenizer trained on the data; the data are gone."""
    home = tmp_path_factory.mktemp("texts")
    file = write_csv(home / "texts.csv", ["red", "blue", "green"] * 20)
    said = texts(
        home / "run",
        file,
        "peft=lora",
        "methods.lora.alpha=64",
        "optimizer.lr=0.5",
        "network.pooling=cls",
    )
    inputs = TextFile(str(file)).load(None).test.texts
    file.unlink()
    return Shared(home / "run", said, inputs)
