"""format=safetensors: the weights of the reported network under Roux's names, and config.json."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from foundation.files import write_json, write_text
from recipes.export.card import card
from recipes.export.folding import Folded, stored
from recipes.predict.predictor import Predictor


def write_weights(predictor: Predictor, plain: Folded, folder: Path) -> float:
    """model.safetensors (a file for `network.checkpoint`), config.json, for texts tokenizer.json.
    Returns 0, because the weights are exact."""
    save_file(stored(plain.network), folder / "model.safetensors", metadata={"format": "pt"})
    more = {
        "in_the_weights": plain.done,
        "not_in_the_weights": plain.left,
        "torch": torch.__version__,
    }
    write_json(folder / "config.json", card(predictor, **more))
    if predictor.tokenizer is not None:
        write_text(folder / "tokenizer.json", predictor.tokenizer.backend.to_str(pretty=False))
    return 0.0
