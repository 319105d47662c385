"""What a stranger may write into a checkpoint, and what must not happen when it is loaded."""

import copy
import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml

from foundation.tensor_files import read_tensors

SECRET = "canary-7f3a91"
FOREIGN = ("evil", "mine", "methods.mine")

Change = Callable[[dict[str, Any]], None]  # of the config as plain containers


def put(key: str, value: Any) -> Change:
    """Set a dotted key; a number is a place in a list."""

    def change(tree: dict[str, Any]) -> None:
        *path, last = key.split(".")
        node: Any = tree
        for name in path:
            node = (
                node[name] if isinstance(node, dict) and name in node else node.setdefault(name, {})
            )
        node[last] = copy.deepcopy(value)

    return change


def altered(checkpoint: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a checkpoint whose provenance was changed."""
    content = read_tensors(checkpoint)
    change(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def with_config(change: Change) -> Callable[[dict[str, Any]], None]:
    def rewrite(content: dict[str, Any]) -> None:
        tree = yaml.safe_load(content["provenance"]["config"])
        change(tree)
        content["provenance"]["config"] = yaml.safe_dump(tree, sort_keys=False)

    return rewrite


def with_text(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    """Replace a line of the config's text, which must be there."""

    def rewrite(content: dict[str, Any]) -> None:
        text = content["provenance"]["config"]
        assert old in text
        content["provenance"]["config"] = text.replace(old, new, 1)

    return rewrite


def with_encoder(**fields: Any) -> Callable[[dict[str, Any]], None]:
    def rewrite(content: dict[str, Any]) -> None:
        encoder = json.loads(content["provenance"]["encoder"])
        content["provenance"]["encoder"] = json.dumps(encoder | fields)

    return rewrite


def with_origin(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def rewrite(content: dict[str, Any]) -> None:
        content["provenance"][key] = value

    return rewrite


# -- what must not happen --------------------------------------------------------------------------
_seen: list[str] | None = None
_EVENTS = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event in _EVENTS:
        _seen.append(event)
    elif event == "open" and isinstance(arguments[0], str) and "forbidden" in arguments[0]:
        _seen.append(f"open {arguments[0]}")


sys.addaudithook(_hook)  # cannot be taken away again; it does nothing outside `guarded`


@contextmanager
def guarded(place: Path) -> Iterator[list[str]]:
    """Yields a list that afterwards names every process, connection, new file and foreign
    module."""
    global _seen
    before, modules = listing(place), set(sys.modules)
    seen: list[str] = []

    def refuse(*arguments: Any, **options: Any) -> None:
        seen.append("a connection")
        raise OSError("no network in this test")

    _seen = seen
    try:
        with (
            patch.object(socket.socket, "connect", refuse),
            patch.object(socket, "getaddrinfo", refuse),
        ):
            yield seen
    finally:
        _seen = None
    seen += [f"file {name}" for name in listing(place) ^ before]
    seen += [f"module {name}" for name in set(sys.modules) - modules if name in FOREIGN]


def listing(place: Path) -> set[str]:
    """Files below a folder with their sizes."""
    return {
        f"{p.relative_to(place)} {p.stat().st_size}"
        for p in place.rglob("*")
        if "__pycache__" not in p.parts
    }


def set_traps(place: Path) -> None:
    """Modules in the current folder that leave a trace when they are imported."""
    trace = f"open({str(place / 'RAN')!r}, 'w').write('x')\n"
    method = "from recipes.contract import Declaration, Method\n\n\nclass Mine(Method):\n"
    method += "    def declare(self):\n        return Declaration()\n"
    (place / "evil.py").write_text(trace + "def run(*a, **k):\n    pass\n")
    (place / "mine.py").write_text(trace + method)
    (place / "methods").mkdir()
    (place / "methods" / "__init__.py").write_text(trace)
    (place / "methods" / "mine.py").write_text(trace + method)
    (place / "forbidden.ckpt").write_text("nothing")
