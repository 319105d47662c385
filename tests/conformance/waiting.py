"""Notices where a step would make the host wait for a device, on a machine that has none.

On a GPU these are the places where a number, a list or a length must be known to Python: `.item()`,
`if tensor`, `.tolist()`, `nonzero`, indexing by a mask. torch's sync debug mode finds them there
(`test_waiting_on_gpu.py`); on a CPU the same calls pass by here on their way.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parent.parent.parent
# of a tensor, by name: what hands its numbers to Python
TOLD = {
    "item",
    "tolist",
    "cpu",
    "numpy",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__complex__",
}
# operations whose result has a length that depends on numbers, or that compare and answer
COUNTED = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "equal",
    "is_nonzero",
}

# what makes a tensor of Python's numbers: on a device that is a transfer from memory that is not
# pinned
SENT = {"tensor", "as_tensor", "from_numpy", "asarray"}


def by_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an index operation is given a mask: its places are counted first."""
    if name not in ("index", "index_put", "index_put_", "_unsafe_index"):
        return False
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


class Waits:
    """What was noticed: a line `file:line operation` for each place of ours."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}
        self.looking = True

    def note(self, what: str) -> None:
        if not self.looking:
            return
        frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_stack()]
        ours = [
            (path.relative_to(ROOT), line) for path, line in frames if path.is_relative_to(ROOT)
        ]
        if any(path == Path("recipes/engine/surveys.py") for path, _ in ours):
            return  # a survey is made between two steps, and brings its table to the host
        places = [f"{path}:{line}" for path, line in ours if path.parts[0] != "tests"]
        where = places[-1] if places else "elsewhere"
        self.found[f"{where} {what}"] = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        before, self.looking = self.looking, False
        try:
            yield
        finally:
            self.looking = before

    @contextmanager
    def watch(self) -> Iterator[None]:
        with Calls(self), Operations(self):
            yield


class Calls(TorchFunctionMode):
    def __init__(self, waits: Waits):
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in TOLD and args and isinstance(args[0], Tensor):
            self.waits.note(name)
            with self.waits.paused():
                return func(*args, **kwargs or {})
        if name in SENT and args and not isinstance(args[0], Tensor):
            self.waits.note(name)
        return func(*args, **kwargs or {})


class Operations(TorchDispatchMode):
    def __init__(self, waits: Waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in COUNTED or by_mask(name, args):
            self.waits.note(name)
        return func(*args, **kwargs or {})
