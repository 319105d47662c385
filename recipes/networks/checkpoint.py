"""Weights from a local file, checked name by name before any of them is copied."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from torch import Tensor, nn

from foundation.errors import UserError
from foundation.tensor_files import UnreadableFile, read_tensors
from recipes.networks.meta import on_meta
from recipes.networks.network import Network

logger = logging.getLogger(__name__)

# prefixes of DataParallel, torch.compile and our own checkpoints
_WRAPPERS = ("module.", "_orig_mod.", "network.")
# whether methods will change the network that is being built
_SURGERY: ContextVar[bool] = ContextVar("surgery", default=False)
_CLASSIFIERS = ("fc", "linear", "head", "classifier", "head.fc")


def load_checkpoint(network: Network, path: str | Path, *, keep_moments: bool = False) -> None:
    """Load a .safetensors file, or a .pt, .pth, .th, .bin or .ckpt file read with
    weights_only=True.

    Keys are those of our network (`backbone.…`, `heads.…`) or of its backbone alone, at the top
    level or under `state_dict` or `model`, with or without the prefix of a wrapper. A classifier in
    the file (fc, linear, head, classifier) is loaded into the one head it fits, and skipped with a
    warning if it fits none or several; so are heads of tasks that our network does not have.
    Everything else must match exactly.

    On the meta device names and shapes are checked, and nothing is copied. Inside `before_surgery`
    a file of a network that methods have changed waits for `load_deferred`.
    Raises UserError for a file that cannot be read, and for missing, unexpected and misshapen
    entries.
    """
    state = _named(network, path)
    own = network.state_dict()
    moments = {key: own[key] for key in ("mean", "std") if key in own}
    state = state | moments if keep_moments else moments | state
    if _SURGERY.get() and _changed_by_methods(own, state):
        network.deferred = (state, str(path))
        return
    _load(network, state, path)


@contextmanager
def before_surgery() -> Iterator[None]:
    """Networks that are built inside get the surgery of methods, and then `load_deferred`."""
    token = _SURGERY.set(True)
    try:
        yield
    finally:
        _SURGERY.reset(token)


def load_deferred(network: Network) -> None:
    """Load the weights that wait for the surgery of the methods, if there are any. Raises UserError
    if they are of another structure still."""
    waiting = getattr(network, "deferred", None)  # a network of a user's own may have none
    if waiting is None:
        return
    state, path = waiting
    network.deferred = None
    added = sorted({key.split(".")[1] for key in state if key.startswith("deltas.")})
    lacking = [key for key in added if key not in network.deltas]
    if lacking:
        raise UserError(
            f"network.checkpoint={path}",
            f"has modules that the method {lacking[0]} added, which this run lacks",
            f"add {lacking[0]} to this run, or export that one: python -m recipes.export run=…",
        )
    _load(network, state, path)


def _changed_by_methods(own: dict[str, Tensor], state: dict[str, Tensor]) -> bool:
    """Whether a file of our networks has entries that only surgery makes."""
    return any(key.startswith(("deltas.", "backbone.")) and key not in own for key in state)


def _load(network: Network, state: dict[str, Tensor], path: str | Path) -> None:
    own = network.state_dict()
    _check(own, state, heads={key for key in own if key.startswith("heads.")}, path=path)
    if not on_meta():
        network.load_state_dict(state, strict=False)


def rows_in_checkpoint(network: Network, path: str | Path) -> int | None:
    """Rows of the token table of a text network in a file of weights; None if it has none."""
    state = _named(network, path)
    tables = [
        f"backbone.{name}.weight"
        for name, module in network.backbone.named_modules()
        if isinstance(module, nn.Embedding) and module.num_embeddings == network.vocab_size
    ]
    return next((len(state[table]) for table in tables if table in state), None)


def _named(network: Network, path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file in the names of our network."""
    state = _unwrapped(_read(Path(path)))
    if any(key.startswith("backbone.") for key in state):
        return _own_heads(network, state)
    return _with_prefix(network, state)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name."""
    if not path.is_file():
        raise UserError(f"network.checkpoint={path}: no such file")
    try:
        content = read_tensors(path)
    except UnreadableFile as error:
        raise UserError(f"network.checkpoint={path}: not a file of weights ({error})") from error
    if path.suffix == ".safetensors":
        return dict(content)
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise UserError(
            f"network.checkpoint={path}: has no tensors, at the top level or under 'state_dict'"
        )
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes of wrappers; of a whole recipe's checkpoint, the network's entries
    only."""
    for _ in _WRAPPERS:
        for prefix in _WRAPPERS:
            inside = _below(prefix, state)
            if inside and (len(inside) == len(state) or prefix == "network."):
                state = inside
    return state


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }


def _own_heads(network: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file of one of our networks, without heads of other tasks or of other numbers of
    classes."""
    own = network.state_dict()
    heads = [key for key in state if key.startswith("heads.")]
    foreign = [key for key in heads if key not in own or own[key].shape != state[key].shape]
    # a plan does not know the numbers of classes yet
    if foreign and not on_meta():
        logger.warning(
            "the checkpoint's heads %s fit no task here; ours keep their fresh weights", foreign
        )
    return {key: value for key, value in state.items() if key not in foreign}


def _with_prefix(network: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file of a backbone, in the names of our network."""
    base = getattr(network.backbone, "base_model_prefix", "")
    state = (base and _below(f"{base}.", state)) or state
    inside = network.backbone.state_dict()
    # our text networks have no pooler, so its weights are ignored
    unused = [key for key in state if key.startswith("pooler.") and key not in inside]
    state = {key: value for key, value in state.items() if key not in unused}
    named = {}
    for classifier in _CLASSIFIERS:
        weight, bias = f"{classifier}.weight", f"{classifier}.bias"
        if weight not in state or weight in inside:
            continue
        values = {"weight": state.pop(weight)}
        if bias in state:
            values["bias"] = state.pop(bias)
        named.update(_fitting_head(network, classifier, values))
    return {f"backbone.{key}": value for key, value in state.items()} | named


def _fitting_head(
    network: Network, classifier: str, values: dict[str, Tensor]
) -> dict[str, Tensor]:
    shapes = {key: value.shape for key, value in values.items()}
    fitting = []
    for task, head in network.heads.items():
        own_shapes = {key: value.shape for key, value in head.state_dict().items()}
        if own_shapes == shapes:
            fitting.append(task)
    if len(fitting) == 1:
        return {f"heads.{fitting[0]}.{key}": value for key, value in values.items()}
    if not on_meta():
        logger.warning(
            "the checkpoint's classifier '%s' %s fits %d heads; ours keep their fresh weights",
            classifier, tuple(shapes["weight"]), len(fitting),
        )  # fmt: skip
    return {}


def _check(
    own: dict[str, Tensor], state: dict[str, Tensor], *, heads: set[str], path: str | Path
) -> None:
    # files from before PyTorch 0.4.1 lack the counter, which only a momentum of None would use
    optional = {key for key in own if key in heads or key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in state and key not in optional]
    unexpected = [key for key in state if key not in own]
    misshapen = []
    for key, value in state.items():
        if key in own and value.shape != own[key].shape:
            theirs = list(value.shape)
            misshapen.append(f"{key} ({theirs} in the file, {list(own[key].shape)} here)")
    problems = []
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    for what, keys in kinds.items():
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        if keys:
            problems.append(f"{what}: {', '.join(keys[:3])}{more}")
    if problems:
        raise UserError(
            f"network.checkpoint={path}: not weights of this network; {'; '.join(problems)}"
        )
