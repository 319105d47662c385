"""Published sets of pictures with many binary attributes, a task each: CelebA."""

from pathlib import Path

import numpy as np

from datamodules.picture_form import Fit
from datamodules.sources.image_folder import Check
from datamodules.sources.list_files import first_there, list_lines, paths_and_numbers, whole
from datamodules.sources.picture_sets import Listing, Listings, PictureSet
from foundation.errors import UserError, nearest
from foundation.types import Count, Share

ATTRIBUTES = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs"),
    *("Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair"),
    *("Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair"),
    *("Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache"),
    *("Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline"),
    *("Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings"),
    *("Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young"),
)
PARTS = {0: "train", 1: "val", 2: "test"}


class CelebA(PictureSet):
    """Faces with 40 attributes, a task each: 162770 training, 19867 validation and 19962 test
    pictures.

    `root` has list_attr_celeba.txt and list_eval_partition.txt, there or in Anno and Eval, and the
    pictures in img_align_celeba or Img/img_align_celeba.

    Liu, Luo, Wang, Tang, Deep Learning Face Attributes in the Wild, ICCV 2015.

    attributes: those that are tasks, by name; null: all 40. The first one stratifies later cuts.
    """

    title = "CelebA"
    folders = ("celeba", "CelebA")
    marks = ("list_attr_celeba.txt", "Anno/list_attr_celeba.txt")
    torchvision = "CelebA"
    parts_fetched = ({"split": "all"},)

    def __init__(
        self,
        attributes: list[str] | None = None,
        size: Count = 64,
        check: Check = "all",
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        super().__init__(size, check, fit, fill)
        chosen = ATTRIBUTES if attributes is None else tuple(attributes)
        for name in chosen:
            if name not in ATTRIBUTES:
                problem = f"CelebA has no attribute '{name}'"
                raise UserError("data.source.attributes", problem, nearest(name, ATTRIBUTES))
        if not chosen or len(set(chosen)) < len(chosen):
            problem = f"found {list(chosen)}"
            raise UserError("data.source.attributes", problem, "name each once, and at least one")
        self.tasks = dict.fromkeys(chosen, 2)

    def read(self, folder: Path) -> Listings:
        files, values = self.attributes_of(first_there(folder, self.marks))
        part_of = self.parts_of(folder)
        numbers = np.array([part_of.get(file, -1) for file in files])
        if (numbers < 0).any():
            lost = files[int((numbers < 0).argmax())]
            problem = f"list_eval_partition.txt does not have '{lost}'"
            raise UserError(f"{folder}", problem, "fetch the lists again")
        inside = "img_align_celeba"
        if not (folder / inside).is_dir():
            inside = f"Img/{inside}"
        parts = {}
        for number, part in PARTS.items():
            rows = (numbers == number).nonzero()[0]
            here = {task: values[task][rows] for task in self.tasks}
            names = [f"{inside}/{files[row]}" for row in rows]
            parts[part] = Listing(names, (), (), here)
        return parts

    def attributes_of(self, path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
        """The files of the list, and 0 or 1 of each by attribute. Raises UserError."""
        count, header, *lines = [*list_lines(path), "", ""]
        rows = [line.split() for line in lines if line]
        names = header.split()
        lost = [task for task in self.tasks if task not in names]
        if lost or len(rows) != whole(count, path):
            problem = (
                f"no attribute '{lost[0]}'" if lost else f"{len(rows)} rows instead of {count}"
            )
            raise UserError(f"{path}", problem, "fetch the file again")
        for row in rows:
            if len(row) != 1 + len(names) or not {"1", "-1"}.issuperset(row[1:]):
                problem = f"a line is '{' '.join(row)[:60]}'"
                raise UserError(
                    f"{path}", problem, f"expected a file and {len(names)} times 1 or -1"
                )
        table = np.array([row[1:] for row in rows]) == "1"
        values = {task: table[:, names.index(task)].astype(np.int64) for task in self.tasks}
        return [row[0] for row in rows], values

    def parts_of(self, folder: Path) -> dict[str, int]:
        """The number of each file's part."""
        names = ("list_eval_partition.txt", "Eval/list_eval_partition.txt")
        path = first_there(folder, names)
        files, numbers = paths_and_numbers(path)
        strange = sorted(set(numbers) - set(PARTS))
        if strange:
            raise UserError(f"{path}", f"part {strange[0]}", "expected 0, 1 or 2")
        return dict(zip(files, numbers, strict=True))
