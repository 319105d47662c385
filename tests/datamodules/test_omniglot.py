import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from datamodules.sources import Omniglot
from datamodules.sources.omniglot import PARTS, decoded
from foundation.errors import UserError


def png(value: int) -> bytes:
    """A picture of one bit, black from column `value` on."""
    pixels = np.arange(105)[None].repeat(105, 0) < value
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def content(part: str, alphabets: int) -> dict[str, bytes]:
    names = [(a, c, i) for a in range(alphabets) for c in range(2) for i in range(3)]
    return {
        f"{part}/Alphabet{a:02}/character{c:02}/{i}.png": png(3 * a + c)
        for a, c, i in reversed(names)
    }


@pytest.fixture(params=["archives", "folders"])
def root(request, tmp_path):
    for part, alphabets in zip(PARTS, (8, 3), strict=True):
        files = content(part, alphabets)
        if request.param == "folders":
            for name, data in files.items():
                path = tmp_path / "omniglot-py" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            continue
        (tmp_path / "Omniglot").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "Omniglot" / f"{part}.tar.gz", "w:gz") as archive:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return tmp_path


def test_classes_of_the_parts_are_disjoint(root):
    splits = Omniglot(size=21, val_alphabets=2).load(root)
    train, val, test = (s.classes["label"] for s in (splits.train, splits.val, splits.test))
    assert (len(train), len(val), len(test)) == (12, 4, 6)
    assert {name.split("/")[0] for name in train}.isdisjoint({name.split("/")[0] for name in val})
    assert splits.train.pixels.shape == (36, 1, 21, 21)
    assert splits.test.targets["label"].tolist() == [c for c in range(6) for _ in range(3)]
    # the character tells where the black begins
    for name, label in zip(test, range(6), strict=True):
        edge = 3 * int(name[8:10]) + int(name[-2:])
        rows = splits.test.targets["label"] == label
        assert abs(float((splits.test.pixels[rows].float() / 255).mean()) * 105 - edge) < 0.2


def test_validation_alphabets_are_always_the_same_and_may_be_none(root):
    assert (
        Omniglot(val_alphabets=2).load(root).val.classes
        == Omniglot(val_alphabets=2).load(root).val.classes
    )
    splits = Omniglot(val_alphabets=0).load(root)
    assert splits.val is None and len(splits.train.classes["label"]) == 16


def test_what_is_known_before_reading():
    info = Omniglot(size=35).info()
    assert (info.kind, info.shape, info.tasks, info.disjoint) == (
        "image",
        (1, 35, 35),
        {"label": None},
        True,
    )


def test_strokes_are_averaged():
    assert decoded(png(105), 28).tolist() == [[255] * 28] * 28
    # five columns of the picture, two of them white
    assert decoded(png(52), 21)[0, 9:12].tolist() == [255, 102, 0]


def test_a_broken_archive_is_one_line(root):
    place = root / "Omniglot" / f"{PARTS[0]}.tar.gz"
    if not place.is_file():
        pytest.skip("of archives alone")
    place.write_bytes(place.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read") as refusal:
        Omniglot().load(root)
    assert "\n" not in str(refusal.value)


def test_where_there_is_none_the_message_says_what_was_looked_for(tmp_path, monkeypatch):
    import torchvision

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "Omniglot", no_network)
    with pytest.raises(
        UserError, match=r"no Omniglot there .* downloading it failed \(no network\)"
    ):
        Omniglot().load(tmp_path)
