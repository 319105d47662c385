"""Published sets of pictures for recognition: Flowers-102, Food-101, Oxford-IIIT Pet, DTD, EuroSAT,
GTSRB. Each is read from the authors' files, and downloaded by torchvision where there is a
network."""

from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from datamodules.picture_form import Fit
from datamodules.sources.image_folder import Check
from datamodules.sources.list_files import columns_of, list_lines, list_rows, whole
from datamodules.sources.picture_sets import (
    Listing,
    Listings,
    PictureSet,
    cut_by_share,
    listing_of_folders,
)
from foundation.errors import UserError
from foundation.types import Count, Share


class Flowers102(PictureSet):
    """102 flowers, 1020 training, 1020 validation and 6149 test pictures; the classes are numbers.

    Nilsback and Zisserman, Automated Flower Classification over a Large Number of Classes, ICVGIP
    2008.
    """

    title = "Flowers-102"
    folders = ("flowers-102", "102flowers", "flowers102")
    marks = ("setid.mat",)
    torchvision = "Flowers102"
    PARTS: ClassVar = {"train": "trnid", "val": "valid", "test": "tstid"}

    def read(self, folder: Path) -> Listings:
        labels = np.atleast_1d(columns_of(folder / "imagelabels.mat", ["labels"])["labels"])
        sets = columns_of(folder / "setid.mat", list(self.PARTS.values()))
        classes = [str(number) for number in range(1, int(labels.max()) + 1)]
        parts = {}
        for part, name in self.PARTS.items():
            numbers = np.atleast_1d(sets[name]).astype(int)
            if numbers.min() < 1 or numbers.max() > len(labels):
                problem = f"'{name}' names picture {numbers.max()}"
                raise UserError(f"{folder / 'setid.mat'}: {problem}; there are {len(labels)}")
            files = [f"jpg/image_{number:05d}.jpg" for number in numbers]
            parts[part] = Listing(files, [int(x) - 1 for x in labels[numbers - 1]], classes)
        return parts


class Food101(PictureSet):
    """101 dishes, 750 training and 250 test pictures each.

    Bossard, Guillaumin, Van Gool, Food-101 – Mining Discriminative Components with Random Forests,
    ECCV 2014.
    """

    title = "Food-101"
    folders = ("food-101", "food101")
    marks = ("meta/train.txt",)
    torchvision = "Food101"

    def read(self, folder: Path) -> Listings:
        classes = list_lines(folder / "meta" / "classes.txt")
        parts = {}
        for part in ("train", "test"):
            path = folder / "meta" / f"{part}.txt"
            names = list_lines(path)
            labels = [place_of(name.split("/")[0], classes, path) for name in names]
            parts[part] = Listing([f"images/{name}.jpg" for name in names], labels, classes)
        return parts


class Pets(PictureSet):
    """37 breeds of cats and dogs, 3680 training and 3669 test pictures.

    Parkhi, Vedaldi, Zisserman, Jawahar, Cats and Dogs, CVPR 2012.
    """

    title = "Oxford-IIIT Pet"
    folders = ("oxford-iiit-pet", "pets")
    marks = ("annotations/trainval.txt",)
    torchvision = "OxfordIIITPet"

    def read(self, folder: Path) -> Listings:
        found = {}
        breeds: dict[int, str] = {}
        for part, file in (("train", "trainval"), ("test", "test")):
            path = folder / "annotations" / f"{file}.txt"
            rows = list_rows(path, "name class species breed")
            labels = [whole(row[1], path) - 1 for row in rows]
            for row, label in zip(rows, labels, strict=True):
                breeds[label] = row[0].rpartition("_")[0]
            found[part] = ([f"images/{row[0]}.jpg" for row in rows], labels)
        classes = [breeds.get(label, str(label + 1)) for label in range(max(breeds) + 1)]
        return {part: Listing(files, labels, classes) for part, (files, labels) in found.items()}


class DTD(PictureSet):
    """Describable textures, 47 classes, 40 training, validation and test pictures each.

    Cimpoi et al., Describing Textures in the Wild, CVPR 2014.

    partition: which of the ten published divisions, 1 to 10.
    """

    title = "DTD"
    folders = ("dtd/dtd", "dtd", "DTD")
    marks = ("labels/train1.txt",)
    torchvision = "DTD"

    def __init__(
        self,
        partition: Annotated[int, Field(ge=1, le=10)] = 1,
        size: Count = 256,
        check: Check = "all",
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        super().__init__(size, check, fit, fill)
        self.partition = partition

    def read(self, folder: Path) -> Listings:
        paths = {
            part: folder / "labels" / f"{part}{self.partition}.txt"
            for part in ("train", "val", "test")
        }
        names = {part: list_lines(path) for part, path in paths.items()}
        classes = sorted({name.split("/")[0] for name in names["train"]})
        parts = {}
        for part, files in names.items():
            labels = [place_of(name.split("/")[0], classes, paths[part]) for name in files]
            parts[part] = Listing([f"images/{name}" for name in files], labels, classes)
        return parts


class EuroSAT(PictureSet):
    """Land use in satellite pictures of 64×64 pixels, 27000 in 10 classes, without a published
    division.

    Helber, Bischke, Dengel, Borth, EuroSAT, IEEE J-STARS 2019.

    test_fraction: share of each class for test, in (0, 1). The same pictures in every run.
    """

    title = "EuroSAT"
    folders = ("eurosat/2750", "EuroSAT/2750", "2750", "eurosat", "EuroSAT")
    marks = ("AnnualCrop",)
    torchvision = "EuroSAT"

    def __init__(
        self,
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        size: Count = 64,
        check: Check = "all",
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        super().__init__(size, check, fit, fill)
        self.test_fraction = test_fraction

    def read(self, folder: Path) -> Listings:
        return cut_by_share(listing_of_folders(folder), self.test_fraction, "eurosat")


class GTSRB(PictureSet):
    """German traffic signs, 43 classes, 26640 or 39209 training and 12630 test pictures of 15 to
    250 pixels; the classes are numbers.

    Stallkamp, Schlipsing, Salmen, Igel, Man vs. Computer, Neural Networks 32, 2012.
    """

    title = "GTSRB"
    folders = ("gtsrb", "GTSRB")
    marks = ("GTSRB/Training", "GTSRB/Final_Training", "Training", "Final_Training")
    torchvision = "GTSRB"
    parts_fetched = ({"split": "train"}, {"split": "test"})

    def __init__(
        self,
        size: Count = 48,
        check: Check = "all",
        fit: Fit = "squash",
        fill: Share | None = None,
    ):
        super().__init__(size, check, fit, fill)

    def read(self, folder: Path) -> Listings:
        inside = "GTSRB/" if (folder / "GTSRB").is_dir() else ""
        # of torchvision's archive, and of the authors' of 39209 pictures
        places = [f"{inside}Training", f"{inside}Final_Training/Images"]
        training = next((place for place in places if (folder / place).is_dir()), places[0])
        train = listing_of_folders(folder, training)
        path = one_of([folder / "GT-final_test.csv", folder / inside / "GT-final_test.csv"])
        files, labels = [], []
        # its separator is one that a csv of a user may not have
        for line in list_lines(path)[1:]:
            cells = line.split(";")
            files.append(f"{inside}Final_Test/Images/{cells[0]}")
            labels.append(whole(cells[-1].strip(), path))
        classes = [str(int(name)) for name in train.classes]
        return {
            "train": Listing(train.files, train.labels, classes),
            "test": Listing(files, labels, classes),
        }


def place_of(name: str, classes: list[str], path: Path) -> int:
    """The number of a class. Raises UserError for a name that is none."""
    try:
        return classes.index(name)
    except ValueError:
        raise UserError(f"{path}: '{name}' is no class of the set; fetch the file again") from None


def one_of(paths: list[Path]) -> Path:
    """The first file that is there, else the first."""
    return next((path for path in paths if path.is_file()), paths[0])
