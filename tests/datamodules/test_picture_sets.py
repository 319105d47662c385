"""Published sets of pictures, each from a miniature in the layout of its authors."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from datamodules.sources.attribute_sets import ATTRIBUTES, CelebA
from datamodules.sources.large_sets import ImageNet, ImageNetLT, INaturalist18, PlacesLT
from datamodules.sources.recognition_sets import DTD, GTSRB, EuroSAT, Flowers102, Food101, Pets
from datamodules.sources.retrieval_sets import CUB200, SOP, Cars196, InShop
from foundation.errors import UserError

SIZE = 8


def picture(path, value=7):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 9), (value, value, value)).save(path)


def written(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(str, lines)) + "\n")


def parts(splits):
    """(first pixel, label) of every picture of each part."""
    found = {}
    for part in ("train", "val", "test"):
        source = getattr(splits, part)
        if source is not None:
            pixels = source.fetch(torch.arange(len(source)))[:, 0, 0, 0].tolist()
            found[part] = list(zip(pixels, source.targets["label"].tolist(), strict=True))
    return found


# -- recognition -----------------------------------------------------------------------------------
def test_flowers(tmp_path):
    root = tmp_path / "flowers-102"
    for number in range(1, 7):
        picture(root / "jpg" / f"image_{number:05d}.jpg", 10 * number)
    savemat(root / "imagelabels.mat", {"labels": np.array([[1, 2, 3, 1, 2, 3]], np.uint8)})
    ids = {"trnid": [[1, 2, 3]], "valid": [[4]], "tstid": [[6, 5]]}
    savemat(root / "setid.mat", {name: np.array(rows, np.uint16) for name, rows in ids.items()})
    splits = Flowers102(SIZE).load(tmp_path)
    assert parts(splits) == {
        "train": [(10, 0), (20, 1), (30, 2)], "val": [(40, 0)], "test": [(60, 2), (50, 1)]
    }  # fmt: skip
    assert splits.train.classes == {"label": ["1", "2", "3"]}
    assert Flowers102(SIZE).preview(root).train_size == 3
    savemat(root / "setid.mat", {"trnid": [[1]]})
    with pytest.raises(UserError, match=r"setid.mat: cannot be read .*expected the variables"):
        Flowers102(SIZE).load(tmp_path)


def test_food(tmp_path):
    root = tmp_path / "food-101"
    written(root / "meta" / "classes.txt", ["apple_pie", "waffles"])
    written(root / "meta" / "train.txt", ["apple_pie/1", "waffles/2"])
    written(root / "meta" / "test.txt", ["waffles/3"])
    for value, name in enumerate(("apple_pie/1", "waffles/2", "waffles/3"), 1):
        picture(root / "images" / f"{name}.jpg", value)
    splits = Food101(SIZE).load(tmp_path)
    assert parts(splits) == {"train": [(1, 0), (2, 1)], "test": [(3, 1)]}
    written(root / "meta" / "test.txt", ["wafles/3"])
    with pytest.raises(UserError, match=r"test.txt: 'wafles' is no class of the set"):
        Food101(SIZE).load(tmp_path)


def test_pets(tmp_path):
    root = tmp_path / "oxford-iiit-pet"
    head = ["Abyssinian_100 1 1 1", "great_pyrenees_2 2 2 1"]
    written(root / "annotations" / "trainval.txt", head)
    written(root / "annotations" / "test.txt", ["Abyssinian_3 1 1 1"])
    for value, name in enumerate(("Abyssinian_100", "great_pyrenees_2", "Abyssinian_3")):
        picture(root / "images" / f"{name}.jpg", value)
    splits = Pets(SIZE).load(tmp_path)
    assert parts(splits) == {"train": [(0, 0), (1, 1)], "test": [(2, 0)]}
    assert splits.train.classes == {"label": ["Abyssinian", "great_pyrenees"]}


def test_textures(tmp_path):
    root = tmp_path / "dtd" / "dtd"
    names = ["banded/banded_0002.jpg", "zigzagged/zigzagged_0001.jpg"]
    for value, name in enumerate(names):
        picture(root / "images" / name, value)
    for partition, order in ((1, names), (2, names[::-1])):
        for part in ("train", "val", "test"):
            written(root / "labels" / f"{part}{partition}.txt", order)
    assert parts(DTD(1, SIZE).load(tmp_path))["val"] == [(0, 0), (1, 1)]
    assert parts(DTD(2, SIZE).load(tmp_path))["test"] == [(1, 1), (0, 0)]


def test_satellites_are_divided_the_same_in_every_run(tmp_path):
    for kind, name in enumerate(("AnnualCrop", "Forest")):
        for i in range(5):
            picture(tmp_path / "eurosat" / "2750" / name / f"{name}_{i}.jpg", 50 * kind + i)
    one, two = (parts(EuroSAT(0.4, SIZE).load(tmp_path)) for _ in range(2))
    assert one == two and len(one["train"]) == 6 and len(one["test"]) == 4


@pytest.mark.parametrize("training", ["Training", "Final_Training/Images"])
def test_signs(tmp_path, training):
    root = tmp_path / "gtsrb"
    for number in (0, 1):
        folder = root / "GTSRB" / training / f"{number:05d}"
        picture(folder / "00000_00000.ppm", number)
        written(folder / f"GT-{number:05d}.csv", ["Filename;Width;Height"])
    picture(root / "GTSRB" / "Final_Test" / "Images" / "00000.ppm", 9)
    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    written(root / "GT-final_test.csv", [head, "00000.ppm;53;54;6;5;48;49;1"])
    splits = GTSRB(SIZE).load(tmp_path)
    assert parts(splits) == {"train": [(0, 0), (1, 1)], "test": [(9, 1)]}
    assert splits.train.classes == {"label": ["0", "1"]}


# -- metric learning -------------------------------------------------------------------------------
@pytest.fixture
def birds(tmp_path):
    root = tmp_path / "CUB_200_2011"
    names = [f"00{c}.Bird_{c}/Bird_{i}_{c}.jpg" for c in (1, 2, 3, 4) for i in (0, 1)]
    for value, name in enumerate(names):
        picture(root / "images" / name, value)
    numbers = range(1, 9)
    written(root / "images.txt", [f"{n} {name}" for n, name in zip(numbers, names, strict=True)])
    written(root / "image_class_labels.txt", [f"{n} {(n + 1) // 2}" for n in numbers])
    written(root / "train_test_split.txt", [f"{n} {n % 2}" for n in numbers])
    written(root / "classes.txt", [f"{c} 00{c}.Bird_{c}" for c in (1, 2, 3, 4)])
    return tmp_path


def test_birds_by_classes_and_by_pictures(birds):
    splits = CUB200(size=SIZE).load(birds)
    assert parts(splits)["train"] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert parts(splits)["test"] == [(4, 0), (5, 0), (6, 1), (7, 1)]
    assert splits.test.classes == {"label": ["003.Bird_3", "004.Bird_4"]}
    assert CUB200().info().disjoint and not CUB200("images").info().disjoint
    divided = parts(CUB200("images", SIZE).load(birds))
    assert divided["train"] == [(0, 0), (2, 1), (4, 2), (6, 3)] and len(divided["test"]) == 4


def test_a_picture_that_is_not_there_and_lists_that_differ(birds):
    root = birds / "CUB_200_2011"
    (root / "images" / "004.Bird_4" / "Bird_1_4.jpg").unlink()
    with pytest.raises(UserError, match=r"1 pictures of CUB-200-2011 are not there: .*Bird_1_4"):
        CUB200(size=SIZE).load(birds)
    written(root / "train_test_split.txt", ["1 0"])
    with pytest.raises(UserError, match="its lists have other pictures"):
        CUB200(size=SIZE).load(birds)
    written(root / "train_test_split.txt", ["1"])
    with pytest.raises(UserError, match="a line is '1'; expected number training"):
        CUB200(size=SIZE).load(birds)


def records(columns):
    """A row vector of structs, as MATLAB saves one."""
    kinds = [(name, object) for name in columns]
    rows = list(zip(*columns.values(), strict=True))
    return np.array(rows, dtype=kinds).reshape(1, -1)


NAMES = np.array(["AM General Hummer", "Acura RL", "Acura TL", "smart fortwo"], object)


def test_cars_in_both_layouts(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two" / "stanford_cars"
    for number in range(1, 5):
        picture(one / "car_ims" / f"{number:06d}.jpg", number)
    files = [f"car_ims/{number:06d}.jpg" for number in range(1, 5)]
    columns = {"relative_im_path": files, "class": [1, 2, 3, 4], "test": [0, 1, 0, 1]}
    savemat(one / "cars_annos.mat", {"annotations": records(columns), "class_names": NAMES})
    for part, labels in (("train", [1, 3]), ("test", [2, 4])):
        names = [f"{i + 1:05d}.jpg" for i in range(2)]
        for name, label in zip(names, labels, strict=True):
            picture(two / f"cars_{part}" / name, label)
        columns = {"fname": names, "class": labels}
        place = two / "devkit" / "cars_train_annos.mat"
        place.parent.mkdir(exist_ok=True)
        if part == "test":
            place = two / "cars_test_annos_withlabels.mat"
        savemat(place, {"annotations": records(columns)})
    savemat(two / "devkit" / "cars_meta.mat", {"class_names": NAMES})
    for root in (one, tmp_path / "two"):
        by_classes = parts(Cars196(size=SIZE).load(root))
        assert sorted(by_classes["train"]) == [(1, 0), (2, 1)]
        assert sorted(by_classes["test"]) == [(3, 0), (4, 1)]
        assert parts(Cars196("images", SIZE).load(root))["train"] == [(1, 0), (3, 2)]


def test_products(tmp_path):
    root = tmp_path / "Stanford_Online_Products"
    head = "image_id class_id super_class_id path"
    rows = ["1 1 1 bicycle_final/11_0.JPG", "2 1 1 bicycle_final/11_1.JPG", "3 5 2 fan_final/2.JPG"]
    written(root / "Ebay_train.txt", [head, *rows])
    written(root / "Ebay_test.txt", [head, "4 11319 1 bicycle_final/9.JPG"])
    for value, name in enumerate(["bicycle_final/11_0", "bicycle_final/11_1", "fan_final/2"]):
        picture(root / f"{name}.JPG", value)
    picture(root / "bicycle_final" / "9.JPG", 9)
    splits = SOP(SIZE).load(tmp_path)
    assert parts(splits) == {"train": [(0, 0), (1, 0), (2, 1)], "test": [(9, 0)]}
    assert splits.test.classes == {"label": ["11319"]} and SOP().info().disjoint


@pytest.mark.parametrize("layout", ["as published", "in one folder"])
def test_garments_have_queries_and_a_gallery(tmp_path, layout):
    root = tmp_path / "In-shop Clothes Retrieval Benchmark"
    lists, inside = (root / "Eval", root / "Img") if layout == "as published" else (root, root)
    rows = [("id_00000001", "train"), ("id_00000001", "train"), ("id_00000002", "gallery")]
    rows += [("id_00000007", "gallery"), ("id_00000002", "query"), ("id_00000005", "train")]
    lines = ["6", "image_name item_id evaluation_status"]
    for value, (item, status) in enumerate(rows):
        name = f"img/WOMEN/Dresses/{item}/0{value}_1_front.jpg"
        picture(inside / name, value)
        lines.append(f"{name}    {item}  {status}")
    written(lists / "list_eval_partition.txt", lines)
    splits = InShop(SIZE).load(tmp_path)
    assert parts(splits) == {"train": [(0, 0), (1, 0), (5, 1)], "test": [(2, 0), (3, 1), (4, 0)]}
    assert splits.roles["test"].queries.tolist() == [2]
    assert splits.roles["test"].gallery.tolist() == [0, 1]
    assert list(splits.roles) == ["test"] and InShop().info().disjoint
    assert splits.test.classes == {"label": ["id_00000002", "id_00000007"]}
    assert InShop().preview(tmp_path).train_size == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["3", "h", "a.jpg i train", "b.jpg j query"], "has 2 rows; its first line says 3"),
        (["1", "h", "a.jpg i querry"], "evaluation_status 'querry'; did you mean 'query'"),
        (["2", "h", "a.jpg i train", "b.jpg j query"], "no queries or no gallery"),
        (["1", "h", "a.jpg i"], "a line is 'a.jpg i'; expected image_name item_id"),
        (["image_name"], "'image_name' is no number"),
    ],
)
def test_damaged_lists_of_garments(tmp_path, lines, message):
    written(tmp_path / "list_eval_partition.txt", lines)
    with pytest.raises(UserError, match=message) as caught:
        InShop(SIZE).load(tmp_path)
    assert "\n" not in str(caught.value)


# -- attributes ------------------------------------------------------------------------------------
def faces(root, published):
    """Four faces, the first of each part and one more; Bald is true of the first and the third."""
    attributes, parted, inside = root, root, root / "img_align_celeba"
    if published:
        attributes, parted, inside = root / "Anno", root / "Eval", root / "Img/img_align_celeba"
    signs = [["-1"] * len(ATTRIBUTES) for _ in range(4)]
    for row in (0, 2):
        signs[row][ATTRIBUTES.index("Bald")] = " 1"
    names = [f"{number:06d}.jpg" for number in range(1, 5)]
    lines = [f"{name} {' '.join(row)}" for name, row in zip(names, signs, strict=True)]
    written(attributes / "list_attr_celeba.txt", ["4", " ".join(ATTRIBUTES), *lines])
    numbers = zip(names, (0, 1, 2, 0), strict=True)
    written(parted / "list_eval_partition.txt", [f"{name} {part}" for name, part in numbers])
    for value, name in enumerate(names):
        picture(inside / name, value)


@pytest.mark.parametrize("published", [True, False])
def test_faces_have_a_task_for_each_attribute(tmp_path, published):
    faces(tmp_path / "celeba", published)
    splits = CelebA(["Bald", "Smiling"], SIZE).load(tmp_path)
    pixels = {part: getattr(splits, part).fetch(torch.arange(1)) for part in ("val", "test")}
    assert [int(x[0, 0, 0, 0]) for x in pixels.values()] == [1, 2] and len(splits.train) == 2
    assert splits.train.targets["Bald"].tolist() == [1, 0]
    assert splits.test.targets["Bald"].tolist() == [1]
    assert splits.train.targets["Smiling"].tolist() == [0, 0]
    assert splits.train.classes == {"Bald": ["no", "yes"], "Smiling": ["no", "yes"]}
    assert len(CelebA().info().tasks) == 40 and CelebA().info().tasks["Young"] == 2
    assert CelebA().preview(tmp_path).train_size == 2


def test_damaged_lists_of_faces(tmp_path):
    faces(tmp_path, published=False)
    attributes = tmp_path / "list_attr_celeba.txt"
    whole = attributes.read_text()
    attributes.write_text(whole.replace("-1", "0", 1))
    with pytest.raises(UserError, match=r"a line is .*expected a file and 40 times 1 or -1"):
        CelebA().load(tmp_path)
    attributes.write_text("\n".join(whole.splitlines()[:-1]))
    with pytest.raises(UserError, match="3 rows instead of 4"):
        CelebA().load(tmp_path)
    attributes.write_text(whole.replace("Young", "Old"))
    with pytest.raises(UserError, match="no attribute 'Young'"):
        CelebA().load(tmp_path)
    attributes.write_text(whole)
    written(tmp_path / "list_eval_partition.txt", ["000001.jpg 0"])
    with pytest.raises(UserError, match=r"does not have '000002\.jpg'"):
        CelebA().load(tmp_path)
    written(tmp_path / "list_eval_partition.txt", ["000001.jpg 7"])
    with pytest.raises(UserError, match="part 7; expected 0, 1 or 2"):
        CelebA().load(tmp_path)
    with pytest.raises(UserError, match=r"no attribute 'Smling'; did you mean 'Smiling'"):
        CelebA(["Smling"])
    with pytest.raises(UserError, match="name each once, and at least one"):
        CelebA(["Bald", "Bald"])


# -- large sets ------------------------------------------------------------------------------------
@pytest.fixture
def imagenet(tmp_path):
    for value, wnid in enumerate(("n01440764", "n01443537")):
        for i in (1, 2):
            picture(tmp_path / "train" / wnid / f"{wnid}_{i}.JPEG", 10 * value + i)
    return tmp_path


def test_imagenet_with_folders_and_as_the_archive_has_it(imagenet):
    picture(imagenet / "val" / "n01443537" / "ILSVRC2012_val_00000001.JPEG", 99)
    expected = [(99, 1)]
    assert parts(ImageNet(SIZE).load(imagenet))["test"] == expected
    (imagenet / "val" / "n01443537" / "ILSVRC2012_val_00000001.JPEG").rename(
        imagenet / "val" / "ILSVRC2012_val_00000001.JPEG"
    )
    devkit = imagenet / "ILSVRC2012_devkit_t12" / "data"
    written(devkit / "ILSVRC2012_validation_ground_truth.txt", [1])
    columns = {"ILSVRC2012_ID": [1, 2], "WNID": ["n01443537", "n01440764"]}
    savemat(devkit / "meta.mat", {"synsets": records(columns).reshape(-1, 1)})
    splits = ImageNet(SIZE).load(imagenet)
    assert parts(splits)["test"] == expected and len(splits.train) == 4
    written(devkit / "ILSVRC2012_validation_ground_truth.txt", [1, 1])
    with pytest.raises(UserError, match="1 pictures, but 2 labels"):
        ImageNet(SIZE).load(imagenet)


def test_imagenet_lt(imagenet):
    lines = ["n01440764/n01440764_1.JPEG 0", "n01440764/n01440764_2.JPEG 0"]
    train = [f"train/{line}" for line in [*lines, "n01443537/n01443537_1.JPEG 1"]]
    written(imagenet / "ImageNet_LT" / "ImageNet_LT_train.txt", train)
    written(imagenet / "ImageNet_LT" / "ImageNet_LT_val.txt", train[1:2])
    picture(imagenet / "val" / "n01443537" / "ILSVRC2012_val_00000001.JPEG", 99)
    test = ["val/n01443537/ILSVRC2012_val_00000001.JPEG 1"]
    written(imagenet / "ImageNet_LT" / "ImageNet_LT_test.txt", test)
    splits = ImageNetLT(SIZE).load(imagenet)
    assert parts(splits) == {
        "train": [(1, 0), (2, 0), (11, 1)], "val": [(2, 0)], "test": [(99, 1)]
    }  # fmt: skip
    assert splits.train.classes == {"label": ["n01440764", "n01443537"]}
    (imagenet / "ImageNet_LT" / "ImageNet_LT_test.txt").unlink()
    with pytest.raises(UserError, match=r"no ImageNet_LT_test.txt; fetch the list"):
        ImageNetLT(SIZE).load(imagenet)


def test_places_lt_and_inaturalist(tmp_path):
    names = ["train/airfield/1.jpg", "train/outdoor/2.jpg", "val/Places365_val_00000001.jpg"]
    for value, name in enumerate(names):
        picture(tmp_path / "p" / name, value)
    written(tmp_path / "p" / "Places_LT_train.txt", [f"{names[0]} 0", f"{names[1]} 1"])
    written(tmp_path / "p" / "Places_LT_test.txt", [f"{names[2]} 1"])
    splits = PlacesLT(SIZE).load(tmp_path / "p")
    assert parts(splits) == {"train": [(0, 0), (1, 1)], "test": [(2, 1)]}
    root = tmp_path / "inat2018"
    for part, numbers in (("train", (0, 1)), ("val", (1,))):
        files = [f"train_val2018/Aves/{n}/{part}.jpg" for n in numbers]
        for value, file in enumerate(files):
            picture(root / file, value)
        images = [{"id": 7 + n, "file_name": f} for n, f in zip(numbers, files, strict=True)]
        labels = [{"image_id": 7 + n, "category_id": n} for n in numbers]
        written(root / f"{part}2018.json", [json.dumps({"images": images, "annotations": labels})])
    by_json = parts(INaturalist18(SIZE).load(tmp_path))
    assert by_json == {"train": [(0, 0), (1, 1)], "test": [(0, 1)]}
    for part, numbers in (("train", (0, 1)), ("val", (1,))):
        lines = [f"train_val2018/Aves/{n}/{part}.jpg {n}" for n in numbers]
        written(root / f"iNaturalist18_{part}.txt", lines)
    assert parts(INaturalist18(SIZE).load(tmp_path)) == by_json


@pytest.mark.parametrize("kind", [CUB200, Cars196, SOP, InShop, ImageNet, ImageNetLT, PlacesLT])
def test_a_folder_without_the_set_is_one_line(tmp_path, kind):
    for call in (kind().load, kind().preview):
        with pytest.raises(UserError, match=f"no {kind.title} there; expected a folder with"):
            call(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        kind().load(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", [Flowers102, Food101, Pets, DTD, EuroSAT, GTSRB, CelebA])
def test_a_download_that_fails_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, kind):
    def refuse(self, base):
        (base / "half").mkdir()
        raise OSError("no network")

    monkeypatch.setattr(kind, "download", refuse)
    assert kind().preview(tmp_path).tasks == kind().info().tasks
    with pytest.raises(UserError, match=f"no {kind.title} there .*no network"):
        kind().load(tmp_path)
    assert list(tmp_path.iterdir()) == []
