"""Who may import whom: datamodules ← recipes ← methods, read from the source of every file."""

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
    """Methods arrive through the config; the dotted path of a class inside the engine is an import in disguise."""
    for file in (ROOT / package).rglob("*.py"):
        constants = [node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
        assert not [c for c in constants if isinstance(c, str) and re.match(r"methods\.[\w.]+\.[A-Z]", c)], file
