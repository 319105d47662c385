"""Published sets with several domains of the same classes: PACS, Office-Home, Office-31, DomainNet.
One domain is trained on, another one is a further set: `data.sources.sketch=sketch`."""

import copy
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from datamodules.names import printable
from datamodules.picture_form import Fit
from datamodules.sources.image_folder import Check
from datamodules.sources.list_files import paths_and_numbers
from datamodules.sources.picture_sets import (
    Listing,
    Listings,
    PictureSet,
    cut_by_share,
    listing_of_folders,
)
from foundation.errors import UserError, nearest
from foundation.types import Count, Share


class DomainSet(PictureSet):
    """Base of these sets. A subclass names the folder of each domain.

    domain: the one that is trained on.
    test_fraction: share of each class for test where no division is published, in (0, 1). The same
        pictures in every run.
    """

    domains: ClassVar[dict[str, tuple[str, ...]]]  # name -> folders that it may have

    def __init__(
        self,
        domain: str,
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        size: Count = 256,
        check: Check = "all",
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        super().__init__(size, check, fit, fill)
        self.domain = domain
        self.test_fraction = test_fraction
        self.divides = True

    def at(self, place: str, root: str | Path | None = None) -> tuple["DomainSet", Any]:
        """The loader and the root of another domain. Without a published division, all its pictures
        are for training streams and for evaluation alike."""
        if place not in self.domains:
            problem = f"{self.title} has no such domain"
            raise UserError(printable(place), problem, nearest(place, self.domains))
        other = copy.copy(self)
        other.domain = place
        other.divides = False
        return other, root

    def place(self, folder: Path) -> str:
        """The folder of the domain. Raises UserError if it is not there."""
        names = self.domains[self.domain]
        for name in names:
            if (folder / name).is_dir():
                return name
        raise UserError(f"{folder}: no folder '{names[0]}' of {self.title}; fetch the whole set")

    def read(self, folder: Path) -> Listings:
        listing = listing_of_folders(folder, self.place(folder))
        if self.divides:
            return cut_by_share(listing, self.test_fraction, self.title)
        return {"train": listing, "test": listing}


class PACS(DomainSet):
    """7 classes in 4 domains, 1670 to 3929 pictures each. The published lists
    DOMAIN_train_kfold.txt and DOMAIN_crossval_kfold.txt are training and test part of a domain,
    where they are beside the pictures or in a folder `splits`; a further domain is then tested
    whole.

    Li, Yang, Song, Hospedales, Deeper, Broader and Artier Domain Generalization, ICCV 2017.

    domain: the one that is trained on: `photo`, `art_painting`, `cartoon` or `sketch`.
    """

    title = "PACS"
    folders = ("PACS", "pacs", "PACS/kfold", "pacs/kfold", "kfold")
    NAMES: ClassVar = ("photo", "art_painting", "cartoon", "sketch")
    marks = (*NAMES, *(f"kfold/{name}" for name in NAMES))
    domains: ClassVar = {name: (name, f"kfold/{name}") for name in marks[:4]}

    def __init__(
        self,
        domain: Literal["photo", "art_painting", "cartoon", "sketch"] = "photo",
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        size: Count = 256,
        check: Check = "all",
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        super().__init__(domain, test_fraction, size, check, fit, fill)

    def read(self, folder: Path) -> Listings:
        place = Path(self.place(folder)).parent
        beside = (folder, folder / place, folder / "splits", folder / "pacs_label")
        lists = [where for where in beside if (where / f"{self.domain}_train_kfold.txt").is_file()]
        if not lists or not self.divides:
            return super().read(folder)
        classes = listing_of_folders(folder, self.place(folder)).classes
        parts = {}
        for part, name in (("train", "train"), ("test", "crossval")):
            files, numbers = paths_and_numbers(lists[0] / f"{self.domain}_{name}_kfold.txt")
            # the lists count from 1, in the order of the names
            paths = [str(place / file) for file in files]
            parts[part] = Listing(paths, [number - 1 for number in numbers], classes)
        return parts


class OfficeHome(DomainSet):
    """65 classes in 4 domains, 2427 to 4439 pictures each, without a published division.

    Venkateswara, Eusebio, Chakraborty, Panchanathan, Deep Hashing Network for Unsupervised Domain
    Adaptation, CVPR 2017.

    domain: the one that is trained on: `art`, `clipart`, `product` or `real_world`.
    """

    title = "Office-Home"
    folders = ("OfficeHomeDataset_10072016", "OfficeHome", "office_home")
    marks = ("Real World", "RealWorld", "Real_World", "Art", "Clipart", "Product")
    domains: ClassVar = {
        "art": ("Art",),
        "clipart": ("Clipart",),
        "product": ("Product",),
        "real_world": ("Real World", "RealWorld", "Real_World"),
    }

    def __init__(
        self,
        domain: Literal["art", "clipart", "product", "real_world"] = "real_world",
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        size: Count = 256,
        check: Check = "all",
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        super().__init__(domain, test_fraction, size, check, fit, fill)


class Office31(DomainSet):
    """31 classes in 3 domains, 2817, 498 and 795 pictures, without a published division.

    Saenko, Kulis, Fritz, Darrell, Adapting Visual Category Models to New Domains, ECCV 2010.

    domain: the one that is trained on: `amazon`, `dslr` or `webcam`.
    """

    title = "Office-31"
    folders = ("office31", "Office31", "Original_images", "domain_adaptation_images")
    marks = ("amazon", "dslr", "webcam")
    domains: ClassVar = {name: (f"{name}/images", name) for name in ("amazon", "dslr", "webcam")}

    def __init__(
        self,
        domain: Literal["amazon", "dslr", "webcam"] = "amazon",
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        size: Count = 256,
        check: Check = "all",
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        super().__init__(domain, test_fraction, size, check, fit, fill)


class DomainNet(DomainSet):
    """345 classes in 6 domains, 48129 to 172947 pictures each; the published lists
    DOMAIN_train.txt and DOMAIN_test.txt are beside the folders of the domains.

    Peng et al., Moment Matching for Multi-Source Domain Adaptation, ICCV 2019.

    domain: the one that is trained on: `clipart`, `infograph`, `painting`, `quickdraw`, `real` or
        `sketch`.
    """

    title = "DomainNet"
    folders = ("DomainNet", "domainnet")
    domains: ClassVar = {
        name: (name,)
        for name in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
    }
    marks = (*(f"{name}_train.txt" for name in domains), "splits")

    def __init__(
        self,
        domain: Literal["clipart", "infograph", "painting", "quickdraw", "real", "sketch"] = "real",
        size: Count = 256,
        check: Check = "evaluation",
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        super().__init__(domain, size=size, check=check, fit=fit, fill=fill)

    def read(self, folder: Path) -> Listings:
        inside = folder / "splits" if (folder / "splits").is_dir() else folder
        found = {
            part: paths_and_numbers(inside / f"{self.domain}_{part}.txt")
            for part in ("train", "test")
        }
        names: dict[int, str] = {}
        for files, labels in found.values():
            for file, label in zip(files, labels, strict=True):
                names[label] = Path(file).parent.name
        classes = [names.get(label, str(label)) for label in range(max(names) + 1)]
        return {part: Listing(*entry, classes) for part, entry in found.items()}
