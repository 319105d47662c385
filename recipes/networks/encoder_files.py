"""Reading encoders of Hugging Face from a folder or the hub. What others have written there runs no
code, names no file elsewhere, and ends in one line where it does not fit."""

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from foundation.errors import UserError, first_line
from foundation.hub import one_try
from recipes.networks.names import SMALL

logger = logging.getLogger(__name__)


def refuse_kernels(name: str, config: PretrainedConfig) -> None:
    """A configuration may name code on a hub (`owner/kernel`) in place of an implementation, which
    transformers would fetch and run. Raises UserError."""
    for key in ("_attn_implementation", "_experts_implementation"):
        values = getattr(config, key, None)
        values = list(values.values()) if isinstance(values, dict) else [values]
        for value in values:
            if value is not None and "/" in str(value):
                raise UserError(
                    f"network.name='{name}'",
                    f"its config.json names code of the hub ({key.strip('_')} '{value}')",
                    "remove it from the file",
                )


def load_encoder(name: str, config: PretrainedConfig) -> PreTrainedModel:
    def load() -> Any:
        return AutoModel.from_pretrained(name, config=config, output_loading_info=True)

    _check_shards(name)
    model, report = read_from_hub(name, load)
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UserError(
            f"network.name='{name}': the files have no weights for {missing[0]} and "
            f"{len(missing) - 1} more; they belong to another encoder"
        )
    return model.float()


def _check_shards(name: str) -> None:
    """Raise UserError if an index in a local folder names files elsewhere."""
    for index in sorted(Path(name).glob("*.index.json")) if Path(name).is_dir() else []:
        # what cannot be read is refused by transformers
        with contextlib.suppress(
            OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError
        ):
            shards = json.loads(index.read_text("utf-8"))["weight_map"].values()
            outside = [str(shard) for shard in shards if Path(str(shard)).name != str(shard)]
            if outside:
                raise UserError(
                    f"network.name='{name}'",
                    f"{index.name} names a file elsewhere ('{outside[0][:100]}')",
                    "expected names of files in the folder",
                )


def read_from_hub(name: str, read: Callable[[], Any]) -> Any:
    """What `read` reads from the hub or a folder. Raises UserError if that fails."""
    try:
        with one_try(name):
            return read()
    except UserError:
        raise
    # a file of a stranger raises anything
    except Exception as error:
        logger.debug("reading '%s' failed", name, exc_info=True)
        reason = f"{type(error).__name__}: {first_line(error)[:200]}"
        if isinstance(error, OSError | ValueError):
            reason = first_line(error)[:300]
        if "weights_only" in str(error):  # torch's own words advise an unsafe load
            reason = "its weights are a pickle that holds other things than numbers"
        raise UserError(
            f"network.name='{name}': no encoder in such a folder, nor on the hub "
            f"({reason}); use a local folder, or '{SMALL}', which needs no files"
        ) from error
