"""Published sets of pictures for metric learning: CUB-200-2011, Cars-196, Stanford Online
Products, In-shop Clothes Retrieval. By default evaluation has other classes than training, as in
the papers of the field."""

from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.picture_form import Fit
from datamodules.sources.image_folder import Check
from datamodules.sources.list_files import columns_of, counted_rows, first_there, list_rows, whole
from datamodules.sources.picture_sets import (
    Listing,
    Listings,
    PictureSet,
    cut_by_classes,
    some,
)
from foundation.errors import UserError, nearest
from foundation.types import Count, Share

Cut = Literal["classes", "images"]


class ByClasses(PictureSet):
    """Base of sets that have a published division of pictures, and are cut by classes as well.

    split: `classes`: the first half of the classes for training, the others for evaluation;
        `images`: the published training and test pictures, of all classes.
    """

    def __init__(
        self,
        split: Cut = "classes",
        size: Count = 256,
        check: Check = "all",
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        super().__init__(size, check, fit, fill)
        self.split = split

    @property
    def disjoint(self) -> bool:
        return self.split == "classes"

    def read(self, folder: Path) -> Listings:
        whole_set, trained = self.everything(folder)
        if self.split == "classes":
            return cut_by_classes(whole_set, len(whole_set.classes) // 2)
        rows = range(len(trained))
        return {
            "train": some(whole_set, [row for row in rows if trained[row]]),
            "test": some(whole_set, [row for row in rows if not trained[row]]),
        }

    def everything(self, folder: Path) -> tuple[Listing, list[bool]]:
        """All pictures, and whether each is a training picture of the published division."""
        raise TypeError(f"{type(self).__name__} does not implement everything")


class CUB200(ByClasses):
    """200 birds, 11788 pictures: 100 classes for training and 100 for evaluation, or 5994 and 5794
    pictures.

    Wah, Branson, Welinder, Perona, Belongie, The Caltech-UCSD Birds-200-2011 Dataset, 2011.
    """

    title = "CUB-200-2011"
    folders = ("CUB_200_2011", "cub200")
    marks = ("image_class_labels.txt",)

    def everything(self, folder: Path) -> tuple[Listing, list[bool]]:
        def column(file: str, columns: str) -> dict[str, str]:
            return dict(row for row in list_rows(folder / file, columns))

        files = column("images.txt", "number path")
        numbers = column("image_class_labels.txt", "number class")
        trained = column("train_test_split.txt", "number training")
        names = column("classes.txt", "class name")
        if not files.keys() == numbers.keys() == trained.keys():
            raise UserError(f"{folder}: its lists have other pictures; fetch the set again")
        path = folder / "image_class_labels.txt"
        labels = [whole(numbers[key], path) - 1 for key in files]
        paths = [f"images/{file}" for file in files.values()]
        return Listing(paths, labels, list(names.values())), [trained[key] == "1" for key in files]


class Cars196(ByClasses):
    """196 cars, 16185 pictures: 98 classes for training and 98 for evaluation, or 8144 and 8041
    pictures.

    `root` has cars_annos.mat and car_ims, or devkit, cars_train and cars_test with
    cars_test_annos_withlabels.mat.

    Krause, Stark, Deng, Fei-Fei, 3D Object Representations for Fine-Grained Categorization, 2013.
    """

    title = "Cars-196"
    folders = ("cars196", "stanford_cars", "CARS196")
    marks = ("cars_annos.mat", "devkit/cars_meta.mat")

    def everything(self, folder: Path) -> tuple[Listing, list[bool]]:
        if (folder / "cars_annos.mat").exists():
            found = columns_of(folder / "cars_annos.mat", ["annotations", "class_names"])
            rows = found["annotations"]
            files = [str(name) for name in rows["relative_im_path"]]
            trained = [not int(tested) for tested in rows["test"]]
            labels = [int(label) - 1 for label in rows["class"]]
            return Listing(files, labels, class_names(found)), trained
        classes = class_names(columns_of(folder / "devkit" / "cars_meta.mat", ["class_names"]))
        files, labels = [], []
        places = (folder / "devkit", folder)
        sizes = []
        for part, file in (
            ("cars_train", "cars_train_annos.mat"),
            ("cars_test", "cars_test_annos_withlabels.mat"),
        ):
            there = [place / file for place in places if (place / file).exists()]
            path = there[0] if there else folder / file
            rows = np.atleast_1d(columns_of(path, ["annotations"])["annotations"])
            files += [f"{part}/{name}" for name in rows["fname"]]
            labels += [int(label) - 1 for label in rows["class"]]
            sizes.append(len(rows))
        return Listing(files, labels, classes), [True] * sizes[0] + [False] * sizes[1]


def class_names(found: dict) -> list[str]:
    return [str(name) for name in found["class_names"]]


class SOP(PictureSet):
    """Stanford Online Products: 59551 training pictures of 11318 products, 60502 test pictures of
    11316 others.

    Oh Song, Xiang, Jegelka, Savarese, Deep Metric Learning via Lifted Structured Feature Embedding,
    CVPR 2016.
    """

    title = "Stanford Online Products"
    folders = ("Stanford_Online_Products", "sop")
    marks = ("Ebay_train.txt",)

    @property
    def disjoint(self) -> bool:
        return True

    def read(self, folder: Path) -> Listings:
        parts = {}
        for part in ("train", "test"):
            path = folder / f"Ebay_{part}.txt"
            rows = list_rows(path, "image_id class_id super_class_id path", skip=1)
            numbers = [whole(row[1], path) for row in rows]
            known = sorted(set(numbers))
            place = {number: label for label, number in enumerate(known)}
            labels = [place[number] for number in numbers]
            parts[part] = Listing([row[3] for row in rows], labels, [str(n) for n in known])
        return parts


class InShop(PictureSet):
    """In-shop Clothes Retrieval of DeepFashion: 25882 training pictures of 3997 garments; 14218
    queries, looked up among 12612 pictures, of 3985 others.

    `root` has list_eval_partition.txt, there or in Eval, and the pictures in img or Img/img.

    Liu, Luo, Qiu, Wang, Tang, DeepFashion: Powering Robust Clothes Recognition and Retrieval with
    Rich Annotations, CVPR 2016.
    """

    title = "In-shop Clothes Retrieval"
    folders = ("In-shop Clothes Retrieval Benchmark", "In-shop", "inshop")
    marks = ("Eval/list_eval_partition.txt", "list_eval_partition.txt")
    columns = "image_name item_id evaluation_status"
    statuses = ("train", "query", "gallery")

    @property
    def disjoint(self) -> bool:
        return True

    def read(self, folder: Path) -> Listings:
        path = first_there(folder, self.marks)
        rows = counted_rows(path, self.columns)
        for row in rows:
            if row[2] not in self.statuses:
                problem = f"evaluation_status '{row[2]}'"
                raise UserError(f"{path}", problem, nearest(row[2], self.statuses))
        inside = "" if (folder / "img").is_dir() else "Img/"
        parts = {}
        for part in ("train", "test"):
            here = [row for row in rows if (row[2] == "train") == (part == "train")]
            known = sorted({row[1] for row in here})
            place = {name: label for label, name in enumerate(known)}
            parts[part] = Listing(
                [f"{inside}{row[0]}" for row in here],
                [place[row[1]] for row in here],
                known,
                queries=[i for i, row in enumerate(here) if row[2] == "query"],
                gallery=[i for i, row in enumerate(here) if row[2] == "gallery"],
            )
        test = parts["test"]
        if not (test.queries and test.gallery):
            raise UserError(f"{path}", "has no queries or no gallery", "fetch the file again")
        return parts
