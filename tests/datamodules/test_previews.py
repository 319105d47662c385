"""What a dry run knows of data of one's own: sizes and classes from a listing or a small file, and
that they are missing."""

import pytest

from datamodules.sources import ImageFolder, text_file
from datamodules.sources.text_file import TextFile
from foundation.errors import UserError
from recipes.cli.main import main
from tests.support.command import write_csv, write_pictures

SMALL = ("network.name=digits_cnn", "trainer.accelerator=cpu", "logger=none", "dry_run=true")


@pytest.fixture
def pictures(tmp_path):
    for name in ("cat", "mouse", "owl"):
        write_pictures(tmp_path / "set" / name, 10, side=8)
    return tmp_path / "set"


def test_a_listing_tells_samples_and_classes(pictures):
    (pictures / "cat" / "broken.png").write_bytes(b"no picture")
    found = ImageFolder(test_fraction=0.2).preview(pictures)
    assert found.tasks == {"label": 3}
    assert found.train_size == 25  # 8 + 8 + 9: no picture was opened


def test_a_small_file_tells_samples_and_classes(tmp_path):
    file = write_csv(tmp_path / "a.csv", ["x", "y"] * 10)
    found = TextFile(str(file)).preview(None)
    assert (found.tasks, found.train_size) == ({"label": 2}, 16)


def test_of_a_large_file_the_columns_are_checked(tmp_path, monkeypatch):
    file = write_csv(tmp_path / "a.csv", ["x", "y"] * 10)
    monkeypatch.setattr(text_file, "PREVIEWED_BYTES", 10)
    assert TextFile(str(file)).preview(None).tasks == {"label": None}
    with pytest.raises(UserError, match="no column 'topic'"):
        TextFile(str(file), label_column="topic").preview(None)


def test_the_plan_has_them(pictures, capsys):
    assert main(["data=image_folder", f"data.root={pictures}", *SMALL]) == 0
    assert "24 training samples, targets: label (3 classes)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("data=image_folder", "data.root=nowhere"), "data.root=nowhere does not exist"),
        (("data=image_folder",), "data.root=null: data=image_folder needs the folder"),
        (("data=image_folder", "data.root=."), "no class folders"),
        (("data=text_file", "data.source.train_file=none.csv"), "none.csv: no such file"),
    ],
    ids=" ".join,
)
def test_data_that_are_missing_are_refused(command, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network = SMALL[1:] if command[0] == "data=text_file" else SMALL
    assert main([*command, *network]) == 2
    errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error:")]
    assert len(errors) == 1 and line in errors[0]
