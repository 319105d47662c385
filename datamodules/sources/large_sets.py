"""ImageNet, and the long-tailed sets with published lists: ImageNet-LT, Places-LT, iNaturalist
2018. Pictures are not decoded before training unless `check` says so: there are too many."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from datamodules.picture_form import Fit
from datamodules.sources.image_folder import Check
from datamodules.sources.list_files import columns_of, list_lines, paths_and_numbers, whole
from datamodules.sources.picture_sets import Listing, Listings, PictureSet, listing_of_folders
from datamodules.sources.tables import read_text
from foundation.errors import UserError
from foundation.types import Count, Share

DEVKIT = "ILSVRC2012_devkit_t12/data"


class LargeSet(PictureSet):
    """Base of sets of more than a hundred thousand pictures.

    check: pictures that are decoded once before training: `all`, those for `evaluation`, or `none`.
        `none`: there are too many to wait for.
    """

    def __init__(
        self,
        size: Count = 256,
        check: Check = "none",
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        super().__init__(size, check, fit, fill)


class ImageNet(LargeSet):
    """ILSVRC 2012: 1000 classes, 1281167 training pictures; the 50000 of its validation part are
    for test, as in the literature.

    `root` has train/WNID/*.JPEG and val/WNID/*.JPEG; or val/*.JPEG as the archive has it, beside
    the folder ILSVRC2012_devkit_t12. The classes are WordNet ids.

    Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015.
    """

    title = "ImageNet"
    folders = ("imagenet", "ImageNet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")
    marks = ("train",)

    def read(self, folder: Path) -> Listings:
        train = listing_of_folders(folder, "train")
        val = folder / "val"
        flat = sorted(val.glob("*.JPEG")) if val.is_dir() else []
        if not flat:
            test = listing_of_folders(folder, "val", train.classes)
            return {"train": train, "test": test}
        labels = validation_labels(folder / DEVKIT, train.classes)
        if len(labels) != len(flat):
            problem = f"{len(flat)} pictures, but {len(labels)} labels in {DEVKIT}"
            raise UserError(f"{val}: {problem}; fetch the set again")
        files = [str(path.relative_to(folder)) for path in flat]
        return {"train": train, "test": Listing(files, labels, train.classes)}


def validation_labels(devkit: Path, classes: Sequence[str]) -> list[int]:
    """The classes of the validation pictures in their order."""
    path = devkit / "ILSVRC2012_validation_ground_truth.txt"
    numbers = [whole(line, path) for line in list_lines(path)]
    known = columns_of(devkit / "meta.mat", ["synsets"])["synsets"]
    ids = zip(known["ILSVRC2012_ID"], known["WNID"], strict=True)
    wnid = {int(number): str(name) for number, name in ids}
    place = {name: label for label, name in enumerate(classes)}
    strange = [number for number in numbers if wnid.get(number) not in place]
    if strange:
        raise UserError(f"{path}: class {strange[0]} has no folder in train; fetch the set again")
    return [place[wnid[number]] for number in numbers]


class ListedSet(LargeSet):
    """Base of sets whose lists have lines `PATH NUMBER`, relative to the folder of the pictures.

    lists: names of the lists by part. inner: folders that they may be in, below data.root.
    """

    lists: ClassVar[dict[str, str]]
    inner: ClassVar[tuple[str, ...]] = ()

    def read(self, folder: Path) -> Listings:
        found = {}
        for part, name in self.lists.items():
            path = self.list_file(folder, name)
            if path is not None:
                found[part] = (path, *paths_and_numbers(path))
        for part in ("train", "test"):
            if part not in found:
                raise UserError(f"{folder}: no {self.lists[part]}; fetch the list of {self.title}")
        total = 1 + max(max(labels) for _, _, labels in found.values())
        classes = self.classes(folder, found["train"][1], found["train"][2], total)
        return {part: Listing(files, labels, classes) for part, (_, files, labels) in found.items()}

    def list_file(self, folder: Path, name: str) -> Path | None:
        places = (folder, *(folder / inner for inner in self.inner))
        return next((place / name for place in places if (place / name).is_file()), None)

    def classes(
        self, folder: Path, files: Sequence[str], labels: Sequence[int], total: int
    ) -> list[str]:
        """The names of the classes: the folders of the training pictures, below `train`."""
        folders = ["/".join(Path(file).parts[1:-1]) for file in files]
        names = dict(zip(labels, folders, strict=True))
        found = [names.get(label) or str(label) for label in range(total)]
        return found if len(set(found)) == total else [str(label) for label in range(total)]


class ImageNetLT(ListedSet):
    """A long-tailed part of ImageNet: 115846 training pictures of 1000 classes, 1280 to 5 a class;
    20000 for validation, 50000 for test.

    `root` is the folder of ImageNet, with the lists ImageNet_LT_train.txt, _val.txt and _test.txt
    in it or in its folder ImageNet_LT.

    Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019.
    """

    title = "ImageNet-LT"
    folders = ("imagenet", "ImageNet", "ILSVRC2012")
    marks = ("ImageNet_LT_train.txt", "ImageNet_LT/ImageNet_LT_train.txt")
    inner = ("ImageNet_LT",)
    lists: ClassVar = {part: f"ImageNet_LT_{part}.txt" for part in ("train", "val", "test")}


class PlacesLT(ListedSet):
    """A long-tailed part of Places-2: 62500 training pictures of 365 scenes, 4980 to 5 a class;
    7300 for validation, 36500 for test.

    `root` is the folder of Places365 with `train` and `val`, with the lists Places_LT_train.txt,
    _val.txt and _test.txt in it or in its folder Places_LT.

    Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019.
    """

    title = "Places-LT"
    folders = ("places365_standard", "places365", "Places_LT")
    marks = ("Places_LT_train.txt", "Places_LT/Places_LT_train.txt")
    inner = ("Places_LT", "Places_LT_v2")
    lists: ClassVar = {part: f"Places_LT_{part}.txt" for part in ("train", "val", "test")}


class INaturalist18(ListedSet):
    """iNaturalist 2018: 437513 training pictures of 8142 species, 1000 to 2 a class; the 24426 of
    its validation part are for test, as in the literature.

    `root` has train_val2018, and the authors' train2018.json and val2018.json, or the lists
    iNaturalist18_train.txt and iNaturalist18_val.txt that are made of them.

    Van Horn et al., The iNaturalist Species Classification and Detection Dataset, CVPR 2018.
    """

    title = "iNaturalist 2018"
    folders = ("iNaturalist18", "inaturalist18", "inat2018")
    marks = ("iNaturalist18_train.txt", "train2018.json")
    lists: ClassVar = {"train": "iNaturalist18_train.txt", "test": "iNaturalist18_val.txt"}

    def read(self, folder: Path) -> Listings:
        if (folder / self.lists["train"]).exists():
            return super().read(folder)
        found = {
            part: annotated(folder / f"{name}2018.json")
            for part, name in (("train", "train"), ("test", "val"))
        }
        total = 1 + max(max(labels) for _, labels in found.values())
        classes = self.classes(folder, *found["train"], total)
        return {part: Listing(*entry, classes) for part, entry in found.items()}


def annotated(path: Path) -> tuple[list[str], list[int]]:
    """Files and categories of annotations in the form of COCO."""
    try:
        content = json.loads(read_text(path))
        category = {entry["image_id"]: entry["category_id"] for entry in content["annotations"]}
        files = [image["file_name"] for image in content["images"]]
        return files, [int(category[image["id"]]) for image in content["images"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: not the annotations of iNaturalist ({error}); fetch the file again"
        ) from None
