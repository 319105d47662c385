"""config.json: all that is needed to use the exported weights without Roux."""

from typing import Any

from omegaconf import OmegaConf

from recipes.predict.predictor import Predictor

FORMAT = "roux export 1"


def card(predictor: Predictor, **more: Any) -> dict[str, Any]:
    """The content of config.json.

    tasks: class names in the order of the logits. input: shape and normalization, or length and
    vocabulary. network: its architecture. reported: averaged or trained weights, or several
    networks joined.
    """
    config = OmegaConf.to_container(predictor.config, resolve=True)
    assert isinstance(config, dict)
    network = config["network"]
    chosen = config.get("chosen") or {}
    names = ("name", "options", "pooling") if predictor.kind == "text" else ("name", "options")
    return {
        "format": FORMAT,
        "kind": predictor.kind,
        "tasks": predictor.classes_by_task,
        "heads_are_taught": predictor.speaks,
        "input": taken(predictor),
        "network": {name: network.get(name) for name in names}
        | {"features": predictor.network.feature_dim},
        "reported": reported(predictor),
        "methods": list(config.get("methods") or {}),
        "run": {key: chosen.get(key) for key in ("recipe", "data")} | {"seed": config.get("seed")},
        **more,
    }


def reported(predictor: Predictor) -> str:
    """Which weights answer: `averaged`, `trained`, or `joined`, those of several networks."""
    composition = predictor.recipe.composition
    if composition.answering():
        return "joined"
    return "averaged" if composition.evaluates_teacher else "trained"


def taken(predictor: Predictor) -> dict[str, Any]:
    """The input of the network. Images: [C, H, W] of the data in [0, 1], in which a picture fits as
    `fit` says; then (x - mean) / std, then bilinear to `resized_to`."""
    if predictor.shape is None:
        tokenizer = predictor.tokenizer
        return {
            "max_length": predictor.max_length,
            "vocab_size": int(getattr(predictor.network, "vocab_size", 0)),
            "pad": None if tokenizer is None else tokenizer.pad,
        }
    network: Any = predictor.network
    return {
        "shape": list(predictor.shape),
        "fit": None if predictor.form is None else predictor.form.fit,
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "resized_to": None if network.input_size is None else list(network.input_size),
    }
