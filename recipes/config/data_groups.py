"""Choices of the groups below `data/`: views of pictures, strong views of texts."""

from collections.abc import Callable, Sequence
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from foundation.errors import UserError
from recipes.config.keys import key_of, value_of

VIEWS = "data/views"
KINDS = {VIEWS: "pictures", "data/strong_text": "texts"}  # what each group is for
PLAIN_DATA = "data=_image"  # pictures, without the views of a set
SHOWN = 4  # settings that a line names

Compose = Callable[[Sequence[str]], DictConfig]


def misplaced(text: str, data: Any, name: str) -> UserError | None:
    """The error for a choice of a group that is not for such data; None if it is.

    text: the override. data: the node of the data. name: what is chosen of `data`."""
    kind = "pictures" if data.get("text") is None else "texts"
    wanted = KINDS.get(key_of(text))
    if wanted in (kind, None):
        return None
    others = [group for group, fits in KINDS.items() if fits == kind]
    remedy = f"leave it out; {others[0]}=NAME is for {kind}"
    return UserError(text.lstrip("+"), f"is for {wanted}, and data={name} has {kind}", remedy)


def misplaced_choices(config: DictConfig, overrides: Sequence[str]) -> list[UserError]:
    """The errors of such choices, in a command that could be composed: one written with a + adds
    the views of the other kind. Only these are reported: errors inside such views follow from
    them."""
    data = config.get("data")
    if not isinstance(data, DictConfig):
        return []
    name = str((config.get("chosen") or {}).get("data"))
    found = [misplaced(text, data, name) for text in overrides if text.startswith("+")]
    return [error for error in found if error is not None]


def replace_views(config: DictConfig, overrides: Sequence[str], compose: Compose) -> list[str]:
    """Put the views that a command chooses in place of those that the set's own file makes of
    another preset; returns a line that says so. overrides: of the command. compose: a command to
    a config."""
    chosen = [text for text in overrides if key_of(text) == VIEWS and value_of(text)]
    data = config.get("data")
    if not chosen or not isinstance(data, DictConfig) or data.get("text") is not None:
        return []
    mixed = leaves(data.get("views"))
    needed = ("recipe", "hydra.searchpath", VIEWS)
    own = [t for t in overrides if key_of(t) in needed or key_of(t).startswith("data.views.")]
    alone = composed_views([*own, PLAIN_DATA], compose)
    usual = composed_views([text for text in overrides if text not in chosen], compose)
    if alone is None or leaves(alone) == mixed or (usual is not None and leaves(usual) == mixed):
        return []
    new = leaves(alone)
    lost = [f"{key}={value}" for key, value in mixed.items() if new.get(key) != value]
    shown = " ".join(lost[:SHOWN]) + (" …" if len(lost) > SHOWN else "")
    data.views = alone
    name = (config.get("chosen") or {}).get("data")
    return [f"{chosen[-1]} replaces the views of data={name} as a whole: without its {shown}"]


def composed_views(overrides: Sequence[str], compose: Compose) -> Any:
    """The views of a command, unresolved; None if it cannot be composed."""
    try:
        views = compose(overrides).data.views
    except (HydraException, OmegaConfBaseException, ValueError):
        return None
    return OmegaConf.to_container(views, resolve=False) if views is not None else None


def leaves(node: Any, key: str = "") -> dict[str, Any]:
    """The values of a tree by dotted key, unresolved."""
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=False)
    if not isinstance(node, dict):
        return {key: node}
    found: dict[str, Any] = {}
    for name, child in node.items():
        found |= leaves(child, f"{key}.{name}" if key else str(name))
    return found
