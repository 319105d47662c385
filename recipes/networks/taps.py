"""Features of the inner stages of a network.

A network names its stages, a method requests some of them once, in `build`, and every output has
them:

    context.network.stages()                      # ["blocks.0", "blocks.1", …]
    context.network.tap("blocks.3")
    step.outputs["labeled"].taps["blocks.3"]      # [N, T, d] with a graph, or [N, C, H, W]

`tapped` is the same for a single call. Hooks exist only while the forward runs. A layer that works
in place on a stage's output changes what was read.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

INPUT = "input"
"""The name of what enters the first stage."""


def stage_names(backbone: nn.Module) -> list[str]:
    """The stages of a backbone, first to last: those that timm lists, else the entries of the
    longest list of modules of one class."""
    listed = [str(info["module"]) for info in getattr(backbone, "feature_info", [])]
    if listed:
        return listed
    longest: list[str] = []
    for name, module in backbone.named_modules():
        children = list(module.named_children())
        alike = len({type(child) for _, child in children}) == 1
        if isinstance(module, nn.ModuleList) and alike and len(children) > len(longest):
            longest = [f"{name}.{child}" for child, _ in children]
    return longest


@contextmanager
def tapped(
    backbone: nn.Module, names: Sequence[str], first: str = ""
) -> Iterator[dict[str, Tensor]]:
    """What these modules return, by name, while the context lasts; of a module that runs several
    times, its last output. first: the module whose input is `INPUT`."""
    seen: dict[str, Tensor] = {}

    def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        seen.setdefault(INPUT, x)

    def after(name: str, module: nn.Module, args: Any, output: Any) -> None:
        seen[name] = output[0] if isinstance(output, tuple) else output

    with ExitStack() as hooks:
        for name in names:
            if name == INPUT:
                module = backbone.get_submodule(first)
                handle = module.register_forward_pre_hook(before, with_kwargs=True)
            else:
                module = backbone.get_submodule(name)
                handle = module.register_forward_hook(partial(after, name))
            hooks.callback(handle.remove)
        yield seen
