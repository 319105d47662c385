"""Who may import whom, read from the source of every file: foundation ← datamodules ← recipes ←
methods; inside recipes the rooms on their floors, each importing only from below; and no file in a
circle."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "foundation": {"datamodules", "recipes", "methods"},
    "datamodules": {"recipes", "methods"},
    "recipes": {"methods"},
    "methods": {"tests"},
}


def imported(source: str) -> set[str]:
    """Top-level packages of all imports, wherever they stand in the file."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_the_reader_sees_every_form_of_import():
    source = "import methods.a as x\ndef f():\n    from recipes.b import c\nfrom . import d\n"
    assert imported(source) == {"methods", "recipes"}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_walls(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package} holds no files"
    crossings = {
        str(file.relative_to(ROOT)): sorted(crossed)
        for file in files
        if (crossed := imported(file.read_text()) & FORBIDDEN[package])
    }
    assert crossings == {}


@pytest.mark.parametrize("package", ["recipes", "datamodules"])
def test_no_method_is_named_by_its_path(package):
    """Methods arrive through the config; the dotted path of a class inside the engine is an import
    in disguise."""
    for file in (ROOT / package).rglob("*.py"):
        constants = [
            node.value
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Constant)
        ]
        assert not [
            c for c in constants if isinstance(c, str) and re.match(r"methods\.[\w.]+\.[A-Z]", c)
        ], file


# from the ground up; rooms on one floor do not know each other
FLOORS = (
    ("config",),
    ("step",),
    ("networks", "optimization"),
    ("tasks",),
    ("services",),
    ("contract",),
    ("engine", "evaluation"),
    ("report",),
    ("loggers",),
    ("setup", "checkpointing"),
    ("runs",),
    ("predict",),
    ("export", "sweeps"),
    ("cli",),
    ("delta_m", "pairs", "__init__"),  # what `python -m` names, and recipes.load
)


def modules(*packages: str) -> dict[str, Path]:
    """Files by dotted name."""
    found = {}
    for package in packages:
        for file in (ROOT / package).rglob("*.py"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = file
    return found


def imports(file: Path, known: dict[str, Path]) -> set[str]:
    """The known modules that a file imports, wherever the import stands in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        # `from package import name`: the module of that name where there is one, else the package's
        # face
        whole = [name for name in names if name in known]
        found |= set(whole[:-1] if len(whole) > 1 and isinstance(node, ast.ImportFrom) else whole)
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_rooms_import_only_from_below():
    known = modules("recipes")
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    assert {room(name) for name in known} == floor.keys(), "every room has a floor"
    crossings = [
        f"{name} -> {other}"
        for name, file in known.items()
        for other in imports(file, known)
        if room(name) != room(other) and floor[room(other)] >= floor[room(name)]
    ]
    assert crossings == []


def test_no_circles():
    known = modules("foundation", "datamodules", "recipes", "methods", "hydra_plugins")
    # a face only hands names on
    arrows = {
        name: imports(file, known) for name, file in known.items() if file.name != "__init__.py"
    }
    while leaves := [name for name, below in arrows.items() if not below & arrows.keys()]:
        for name in leaves:
            del arrows[name]
    assert arrows == {}, "these files import each other, or stand on some that do"
