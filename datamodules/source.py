"""What a data set is: sources of samples, the parts of a set, and its static facts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from datamodules.picture_form import PictureForm
from foundation.errors import UserError

if TYPE_CHECKING:
    from datamodules.text.codec import Codec

Kind = Literal["image", "text"]
SIGNED_BYTES = 2**28  # images in memory that a fingerprint reads, a quarter of a second


@dataclass(frozen=True)
class DataInfo:
    """What a loader knows without reading data.

    tasks: number of classes by task, None if it is known only after reading.
    shape: (C, H, W) of an image as the views make it, None for text.
    stored: form of the stored pictures; None: of `shape`, cropped.
    train_size: labeled training samples before anything is held out, None if known only after
        reading.
    unlabeled: further training samples, without a label, as far as it is known.
    disjoint: evaluation has other classes than training, so that heads cannot be evaluated, only
        retrieval.
    """

    kind: Kind
    tasks: dict[str, int | None]
    shape: tuple[int, int, int] | None = None
    train_size: int | None = None
    unlabeled: int = 0
    disjoint: bool = False
    stored: PictureForm | None = None

    @property
    def form(self) -> PictureForm:
        """What a picture is brought to before a view sees it. Of images only."""
        assert self.shape is not None, "images have a shape"
        return self.stored or PictureForm(*self.shape)

    def seen_at(self, side: int | None) -> "DataInfo":
        """The same set under views that make squares of this side; None: of the stored size."""
        if side is None:
            return self
        if self.shape is None:
            remedy = "leave it out: the data are texts"
            raise UserError(f"data.input_size={side}", "is for pictures", remedy)
        return replace(self, shape=(self.shape[0], side, side), stored=self.form)


class Source:
    """Samples by position. A subclass sets the attributes and implements `fetch` and `__len__`.

    targets: int64 [N] by task, -1 for no label.
    classes: class names by task, in the order of the target values.
    workers: True if `fetch` is slow (it decodes files) and gains from worker processes.
    """

    kind: ClassVar[Kind]
    workers: ClassVar[bool] = False
    targets: dict[str, Tensor]
    classes: dict[str, list[str]]

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} does not implement __len__")

    def fetch(self, indices: Tensor) -> Any:
        """The samples at `indices` (int64 [B]) as one batch.

        uint8 [B, C, H, W] for images; for text a dict of tensors [B, …] and of ints per batch.
        """
        raise TypeError(f"{type(self).__name__} does not implement fetch")

    # -- to tell one set from another, see `fingerprint` -------------------------------------------
    def signature(self, rows: slice) -> bytes:
        """What identifies the samples in `rows`: names, sizes, contents, as far as it is cheap.

        Without it, a run that resumes compares the number and the labels of the samples only.
        """
        return b""

    def name_of(self, row: int) -> str:
        """A sample in a message: its file, the beginning of its text; empty if it has no name."""
        return ""

    # -- sets in memory: they can be stored on the device ------------------------------------------
    @property
    def nbytes(self) -> int | None:
        """Bytes of all samples, None if they are not in memory."""
        return None

    def on(self, device: torch.device) -> "Source":
        """A copy of the source with its samples on a device; targets stay on the host."""
        raise TypeError(f"{type(self).__name__} is not in memory")

    def fetch_there(self, indices: Tensor, there: Tensor) -> Any:
        """As `fetch`, for a source made by `on`: `there` are the indices on the samples' device."""
        raise TypeError(f"{type(self).__name__} is not in memory")


class ArraySource(Source):
    """Images in memory.

    pixels: uint8 [N, C, H, W]. targets: int64 [N] by task. classes: names by task.
    """

    kind: ClassVar[Kind] = "image"

    def __init__(self, pixels: Tensor, targets: dict[str, Tensor], classes: dict[str, list[str]]):
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise ValueError(
                f"pixels must be uint8 [N, C, H, W], not {pixels.dtype} {list(pixels.shape)}"
            )
        for task, values in targets.items():
            if values.dtype != torch.int64 or values.shape != (len(pixels),):
                raise ValueError(
                    f"targets of '{task}' must be int64 [{len(pixels)}], one for each image"
                )
        self.pixels = pixels.contiguous()
        self.targets = targets
        self.classes = classes

    def __len__(self) -> int:
        return len(self.pixels)

    def fetch(self, indices: Tensor) -> Tensor:
        return self.pixels.index_select(0, indices)

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    def signature(self, rows: slice) -> bytes:
        # of a large set, every second image or fewer
        every = -(-self.pixels.nbytes // SIGNED_BYTES)
        return self.pixels[rows][::every].cpu().contiguous().numpy().tobytes()

    def on(self, device: torch.device) -> "ArraySource":
        return ArraySource(self.pixels.to(device), self.targets, self.classes)

    def fetch_there(self, indices: Tensor, there: Tensor) -> Tensor:
        return self.fetch(there)


def check_labels(where: str, labels: Tensor, classes: int, lowest: int = -1) -> None:
    """Raise UserError for a label that is no class. lowest: -1 allows samples without a label."""
    wrong = (labels < lowest) | (labels >= classes)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        missing = ", or -1 for none" if lowest < 0 else ""
        raise UserError(
            f"{where}: sample {first} has label {int(labels[first])}; expected 0 to {classes - 1}"
            f"{missing}"
        )


@dataclass(frozen=True)
class Roles:
    """Which samples of an evaluation part are looked up, and among which: int64 positions in it.
    A sample may be both; it is then no neighbor of itself.

    cameras: int64 [N], of all samples of the part; None: not known. Samples of the class and camera
        of a query are no neighbors of it.
    """

    queries: Tensor
    gallery: Tensor
    cameras: Tensor | None = None


@dataclass
class Splits:
    """The parts of a data set. `val` is None if the set has no validation part. roles: of parts
    `test` or `val` whose queries are looked up in a gallery, by part."""

    train: Source
    test: Source
    val: Source | None = None
    roles: dict[str, Roles] = field(default_factory=dict)

    @property
    def sources(self) -> list[Source]:
        """The parts that there are, each once."""
        found = {id(part): part for part in (self.train, self.val, self.test) if part is not None}
        return list(found.values())

    def mapped(self, change: Callable[[Source], Source]) -> "Splits":
        """The same with a function applied to every part; parts that are one stay one."""
        done = {id(source): change(source) for source in self.sources}
        val = None if self.val is None else done[id(self.val)]
        return Splits(done[id(self.train)], done[id(self.test)], val, self.roles)


@runtime_checkable
class TextPreparation(Protocol):
    """What a config names as `data.text`: numbers the words of all parts of a set.

    pretrained: name or folder of the tokenizer that is loaded, None if one is trained.
    vocab_size: the most ids that a trained tokenizer may have.
    """

    vocab_size: int

    @property
    def pretrained(self) -> str | None: ...

    def __call__(self, splits: Splits, more: Sequence[Source] = ()) -> "Codec":
        """Encode the words of all parts, and return the codec. more: further sources, given only
        where one is large: it need not be kept in memory."""
        ...


@runtime_checkable
class Loader(Protocol):
    """What a config names as `data.source`: describes a data set and loads it.

    A loader of data of one's own may also have `preview(root) -> DataInfo`: what is cheap to know
    of them, as from a listing of the folder, for the plan of a dry run.
    """

    def info(self) -> DataInfo:
        """Static facts: reads neither files nor network."""
        ...

    def load(self, root: str | Path | None) -> Splits:
        """Read the set from the folder `root`; with None the loader finds or downloads it.

        Raises UserError, one line, if the set is not available.
        """
        ...
