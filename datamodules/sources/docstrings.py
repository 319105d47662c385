"""Docstrings: English texts of every installation, labeled with the library they come from.

The texts are read from the source files of the standard library and of packages that Roux depends
on. No package is imported, nothing is downloaded. The classes are naturally long-tailed: a small
library has fewer docstrings than a large one.
"""

import ast
import hashlib
import importlib.util
import inspect
import os
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated

from pydantic import Field

from datamodules.source import DataInfo, Splits
from datamodules.sources.text import split_source, text_source
from foundation.errors import UserError, nearest
from foundation.types import Count

# Class -> top-level packages, from head to tail; the standard library is found by its folder.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "transformers": ("transformers",),
    "torch": ("torch",),
    "sympy": ("sympy",),
    "scipy": ("scipy",),
    "python": (),
    "wandb": ("wandb",),
    "torchmetrics": ("torchmetrics",),
    "timm": ("timm",),
    "networkx": ("networkx",),
    "sklearn": ("sklearn",),
    "numpy": ("numpy",),
    "torchvision": ("torchvision",),
    "lightning": ("pytorch_lightning",),
    "matplotlib": ("matplotlib",),
    "pydantic": ("pydantic",),
    "rich": ("rich",),
    "pillow": ("PIL",),
    "hydra": ("hydra", "omegaconf"),
}

# Words that reveal the label.
# fmt: off
NAMES = [
    "python", "cpython", "pytorch", "torch", "sympy", "matplotlib", "mpl", "pyplot", "plt",
    "transformers", "huggingface", "scipy", "scikit-learn", "scikit", "sklearn", "networkx",
    "nx", "numpy", "np", "wandb", "pydantic", "torchvision", "timm", "pytorch_lightning",
    "lightning", "torchmetrics", "pillow", "pil", "rich", "hydra", "omegaconf",
]

SKIPPED_FOLDERS = {
    "test", "tests", "testing", "site-packages", "__pycache__", "vendor", "_vendor", "vendored",
    "third_party", "externals", "_externals", "idlelib", "lib2to3", "turtledemo", "ensurepip",
    "proto",
}
# fmt: on
LARGEST_FILE = 200_000  # bytes; larger files are tables and generated code
ENOUGH_WORDS = 40  # a text takes paragraphs until it has this many words

# The text before a docstring: a header's colon, then only comments and blank lines; or the start of
# a file.
HEADER = re.compile(r":[ \t]*(?:#[^\n]*)?\n(?:[ \t]*(?:#[^\n]*)?\n)*[ \t]+[rRuU]?\Z")
FILE_HEAD = re.compile(r"(?:[ \t\ufeff]*(?:#[^\n]*)?\n)*[ \t\ufeff]*[rRuU]?")

SECTION = re.compile(
    r"(parameters?|args?|arguments?|keyword arguments|returns?|yields?|raises|examples?|notes?"
    r"|attributes|usage|references|see also|inputs?|outputs?|shape)\s*:*\s*(\n|$)"
    r"|\.\. |[:@]\w+.*:|[-*+•] |\||>>>|```|\$ ",
    re.IGNORECASE,
)
UNDERLINE = re.compile(r"\n\s*[-=~^*#]{3,}\s*(\n|$)")
ROLE = re.compile(r":[\w:+-]+:`")
LINK = re.compile(r"<[^<>\s]*>`_*|https?://\S+")
MARKUP = re.compile(r"[`*~|]+|\s_|_\s")
WORD = re.compile(r"[^\W\d_]{2,}")
NAME = re.compile(r"(?<![^\W_])(" + "|".join(map(re.escape, NAMES)) + r")(?![^\W_])", re.IGNORECASE)


class Docstrings:
    """English docstrings, a class for each library that they come from: one text a docstring.

    A text is the leading prose of a docstring, without sections, lists and markup. Texts that
    repeat are kept once, and texts that occur in two libraries are left out. The texts follow the
    versions of the packages installed. Raises UserError for an unknown library, and for one that is
    not installed.

    per_library: texts of the largest library, at least 10; smaller ones have fewer. By number of
        files; a library with a share s of its files has at most sqrt(s) times as many. Sizes differ
        by two orders of magnitude; the root keeps their order and the long tail, and leaves the
        smallest class enough to learn from. Files are read in a fixed pseudo-random order until a
        library has its texts, which keeps loading at a few seconds.
    min_words: words of a text, at least 1; shorter texts are left out.
    mask_names: replace the libraries' names, which give the label away, by `library`.
    test_fraction: share of every class for test, in (0, 1); the same texts in every run.
    libraries: the classes, in order; null: all 18.
    """

    def __init__(
        self,
        per_library: Annotated[int, Field(ge=10)] = 1000,
        min_words: Count = 8,
        mask_names: bool = True,
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        libraries: list[str] | None = None,
    ):
        self.libraries = list(LIBRARIES) if libraries is None else list(libraries)
        for name in self.libraries:
            if name not in LIBRARIES:
                raise UserError(
                    f"data.source.libraries: no library '{name}'; {nearest(name, LIBRARIES)}"
                )
        if len(set(self.libraries)) < max(2, len(self.libraries)):
            raise UserError(
                f"data.source.libraries={self.libraries}: expected two or more different libraries"
            )
        self.per_library = per_library
        self.min_words = min_words
        self.mask_names = mask_names
        self.test_fraction = test_fraction

    def info(self) -> DataInfo:
        return DataInfo("text", {"label": len(self.libraries)})

    def load(self, root: str | Path | None) -> Splits:
        """Read the texts; `root` is not used, packages are read where they are installed."""
        files = {}
        for name in self.libraries:
            files[name] = library_files(name)
        largest = max(map(len, files.values()))
        by_library = {}
        for name, paths in files.items():
            most = round(self.per_library * (len(paths) / largest) ** 0.5)
            by_library[name] = self._texts(paths, most)
        # a text that occurs in two libraries has no label
        libraries_with: Counter[str] = Counter()
        for found in by_library.values():
            libraries_with.update(found.keys())
        texts = []
        labels = []
        for name, found in by_library.items():
            own = [text for key, text in found.items() if libraries_with[key] == 1]
            texts += own
            labels += [name] * len(own)
        source = text_source(texts, {"label": labels}, {"label": self.libraries})
        return split_source(source, self.test_fraction, "docstrings")

    def _texts(self, files: Iterable[Path], most: int) -> dict[str, str]:
        """Up to `most` distinct texts, by their lower-case form."""
        texts: dict[str, str] = {}
        for file in files:
            for docstring in docstrings(file):
                text = clean(docstring, self.mask_names)
                if len(WORD.findall(text)) >= self.min_words:
                    texts.setdefault(text.lower(), text)
            if len(texts) >= most:
                break
        return dict(islice(texts.items(), most))


def library_folders(name: str) -> list[Path]:
    """Folders with the source of a library. Looks packages up without importing them."""
    if not LIBRARIES[name]:
        return [Path(sysconfig.get_path("stdlib"))]
    folders = []
    for package in LIBRARIES[name]:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"data=docstrings: package '{package}' is not installed; "
                f"pip install {package}, or leave '{name}' out of data.source.libraries"
            )
        folders.append(Path(next(iter(spec.submodule_search_locations))))
    return folders


def library_files(name: str) -> list[Path]:
    """The source files of a library, folder by folder."""
    files = []
    for folder in library_folders(name):
        files += python_files(folder)
    return files


def python_files(root: Path) -> list[Path]:
    """Source files under `root` in a pseudo-random order that depends only on their relative paths.

    With the order of the folders, a cap would keep only the first subpackages of a large library.
    """
    found = []
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if name not in SKIPPED_FOLDERS]
        found += [os.path.join(folder, name) for name in files if name.endswith(".py")]  # noqa: PTH118
    start = len(os.fspath(root))

    def digest(path: str) -> bytes:
        return hashlib.blake2b(path[start:].replace(os.sep, "/").encode()).digest()

    return [Path(path) for path in sorted(found, key=digest)]


def docstrings(file: Path) -> list[str]:
    """Docstrings of the module, its classes and functions.

    If all long strings of a file are delimited by three double quotes, the file is cut there (which
    rarely also finds a long string behind the colon of a dictionary). Other files are parsed, which
    takes ten times as long.
    """
    try:
        if not file.is_file() or file.stat().st_size > LARGEST_FILE:
            return []
        source = file.read_text("utf8", errors="replace")
    except OSError:
        return []  # of somebody else's package; a file less is no other set
    if '"""' not in source:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd escapes in somebody else's strings
        try:
            parts = source.split('"""')
            if "'''" in source or '\\"""' in source or len(parts) % 2 == 0:
                return parsed_docstrings(source)
            return cut_docstrings(parts)
        except (SyntaxError, ValueError):
            return []  # templates and files for another Python version are skipped


def cut_docstrings(parts: list[str]) -> list[str]:
    """Docstrings among the pieces of a file cut at its triple quotes: those behind a header's colon
    and the one at the start of the file.
    """
    found = []
    for place in range(1, len(parts), 2):
        match = HEADER.search(parts[place - 1])
        if match or (place == 1 and FILE_HEAD.fullmatch(parts[0])):
            raw = parts[place - 1][-1:] in ("r", "R")
            text = parts[place]
            if not raw and "\\" in text:
                text = ast.literal_eval(f'"""{text}"""')
            found.append(inspect.cleandoc(text))
    return found


def parsed_docstrings(source: str) -> list[str]:
    """Docstrings of a file from its syntax tree."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


def clean(docstring: str, mask_names: bool) -> str:
    """The leading prose of a docstring on one line, without markup; with `mask_names` without
    library names.
    """
    kept: list[str] = []
    for paragraph in re.split(r"\n\s*\n", docstring.strip()):
        if SECTION.match(paragraph) or UNDERLINE.search(paragraph) or ">>>" in paragraph:
            break
        kept.append(" ".join(paragraph.split()))
        if sum(len(part.split()) for part in kept) >= ENOUGH_WORDS:
            break
    text = MARKUP.sub(" ", LINK.sub("", ROLE.sub("`", " ".join(kept))))
    if mask_names:
        text = NAME.sub("library", text)
    return " ".join(text.split())
