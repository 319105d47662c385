"""format=huggingface: a text encoder as a folder for transformers, with its tokenizer.

    AutoModelForSequenceClassification.from_pretrained(FOLDER)
        if the head can be represented: network.pooling=cls and one task
    AutoModel.from_pretrained(FOLDER)
        otherwise; the heads are in heads.safetensors

The classification models of transformers (BERT, RoBERTa and similar) have a layer tanh(W x + b)
between the first token's state and the classes. We make it an identity: for W = εI, tanh(εx) ≈ εx
to the last digits of float32, and the classes' weights are divided by ε. None of these models
averages over tokens, so mean pooling cannot be represented.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from datamodules.text.tokenizer import TextTokenizer
from foundation.errors import UserError, first_line
from foundation.files import write_json
from recipes.export.card import card
from recipes.export.folding import CLOSE, Folded, difference, examples
from recipes.networks.attention import SDPA
from recipes.predict.predictor import Predictor

# a power of two, so that scaling by it is exact. tanh(εx) = εx (1 - 5e-7) at x = 5
EPSILON = 2.0**-12


def write_huggingface(predictor: Predictor, plain: Folded, folder: Path) -> float:
    """Returns the largest difference from the run's outputs. Raises UserError if the network is no
    encoder of transformers, or methods added modules that cannot be merged."""
    if predictor.kind != "text":
        raise UserError(
            "format=huggingface: is for text encoders; for image networks use format=timm"
        )
    if plain.left:
        raise UserError(
            f"format=huggingface: {'; '.join(plain.left)}: it cannot represent this; use "
            "format=onnx"
        )
    with quiet():
        check_folder_is_known(plain.network.backbone)
        return write_folder(predictor, plain.network, folder)


def check_folder_is_known(encoder: Any) -> None:
    """Raises UserError if AutoModel makes another model of this encoder's configuration.

    Of an encoder-decoder (T5, BART) a run has the encoder alone. AutoModel makes both parts, does
    not find the encoder's weights under its own names, and begins with random ones."""
    config = copy.deepcopy(encoder.config)
    set_known_attention(config)
    try:
        with torch.device("meta"):
            made = AutoModel.from_config(config)
    except Exception as error:  # a class of transformers raises anything
        reason = f"AutoModel makes no model of its configuration ({first_line(error)[:200]})"
        raise refusal(encoder, reason) from error
    if type(made) is not type(encoder):
        reason = f"AutoModel makes a {type(made).__name__} of its configuration"
        raise refusal(encoder, f"{reason}, of which the run has this part alone")


def refusal(encoder: Any, reason: str) -> UserError:
    problem = f"{type(encoder).__name__} cannot be read back: {reason}"
    return UserError("format=huggingface", problem, "use format=onnx or format=safetensors")


def write_folder(predictor: Predictor, network: Any, folder: Path) -> float:
    by_task = predictor.classes_by_task
    names = next(iter(by_task.values()))
    model = classifier(network, names) if predictor.speaks and len(by_task) == 1 else None
    saved(model if model is not None else network.backbone, folder)
    if model is None:
        heads = {k: v.detach().cpu().clone() for k, v in network.heads.state_dict().items()}
        save_file(heads, folder / "heads.safetensors", metadata={"format": "pt"})
    if predictor.tokenizer is not None:
        as_fast(predictor.tokenizer, predictor.max_length).save_pretrained(folder)
    write_json(
        folder / "roux.json",
        card(predictor, classification=model is not None, pooling=network.pooling),
    )
    worst = checked(predictor, network, folder, model is not None)
    if worst > CLOSE:
        reason = f"the outputs of transformers differ from the run's by {worst:.1e}"
        raise refusal(network.backbone, reason)
    return worst


@contextmanager
def quiet() -> Iterator[None]:
    """Hide transformers' messages about loading and about the unused pooler."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


def saved(model: Any, folder: Path) -> None:
    """`save_pretrained`, with an attention implementation that every installation has."""
    own = model.config._attn_implementation
    set_known_attention(model.config)
    model.save_pretrained(folder)
    # the model is compared with the folder, and its masks depend on this
    model.config._attn_implementation = own


def set_known_attention(config: Any) -> None:
    # some encoders have eager attention alone, and with another name they mask nothing
    if config._attn_implementation == SDPA:
        config._attn_implementation = "sdpa"


@torch.no_grad()
def classifier(network: Any, names: list[str]) -> Any:
    """A classification model of transformers with the network's outputs; None if there is none."""
    head = next(iter(network.heads.values()))
    if network.pooling != "cls" or not isinstance(head, nn.Linear):
        return None
    config = AutoConfig.for_model(**network.backbone.config.to_dict())
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    config._attn_implementation = network.backbone.config._attn_implementation
    set_known_attention(config)
    try:
        model = AutoModelForSequenceClassification.from_config(config).eval()
    except ValueError:  # transformers has no such class for this encoder
        return None
    encoder = getattr(model, model.base_model_prefix)
    missing, unexpected = encoder.load_state_dict(network.backbone.state_dict(), strict=False)
    if unexpected or any(not name.startswith("pooler.") for name in missing):
        return None
    ends = [layer for layer in linears(model, encoder) if layer is not None]
    if not ends or ends[-1].weight.shape != head.weight.shape or len(ends) > 2:
        return None
    scale = 1.0
    for layer in ends[:-1]:
        if layer.in_features != layer.out_features:
            return None
        layer.weight.copy_(EPSILON * torch.eye(layer.in_features))
        layer.bias.zero_()
        scale /= EPSILON
    ends[-1].weight.copy_(scale * head.weight)
    ends[-1].bias.copy_(head.bias if head.bias is not None else torch.zeros(len(names)))
    return model if agrees(model, network) else None


def linears(model: Any, encoder: Any) -> list[Any]:
    """The linear layers between the encoder's states and the classes, in order."""
    inside = set(encoder.modules())
    pooler = getattr(encoder, "pooler", None)
    between = (
        [m for m in pooler.modules() if isinstance(m, nn.Linear)] if pooler is not None else []
    )
    return between + [m for m in model.modules() if isinstance(m, nn.Linear) and m not in inside]


def made_up(network: Any, rows: int = 3, length: int = 7) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(network.vocab_size, (rows, length), generator=random)
    mask = torch.arange(length) < torch.tensor([[length], [length - 2], [1]])[:rows]
    return {"ids": ids, "mask": mask}


def agrees(model: Any, network: Any) -> bool:
    view = made_up(network)
    expected = next(iter(network(network.embed(view)).logits.values()))
    found = model(input_ids=view["ids"], attention_mask=view["mask"].long()).logits
    return difference({"logits": found}, {"logits": expected}) < CLOSE


@torch.no_grad()
def checked(predictor: Predictor, network: Any, folder: Path, classifies: bool) -> float:
    """The difference of the folder, read by transformers, from the run: of logits, or of the states
    of real tokens."""
    view = examples(predictor, 3, 11)
    given = {"input_ids": view["ids"], "attention_mask": view["mask"].long()}
    if classifies:
        found = AutoModelForSequenceClassification.from_pretrained(folder).eval()(**given).logits
        return difference(
            {"logits": found},
            {"logits": network(network.embed(view)).logits[next(iter(network.heads))]},
        )
    model = AutoModel.from_pretrained(folder).eval()
    found = model(**given).last_hidden_state[view["mask"]]
    mine = network.backbone(
        inputs_embeds=network.embed(view).x, attention_mask=given["attention_mask"]
    )
    return difference({"states": found}, {"states": mine.last_hidden_state[view["mask"]]})


def as_fast(tokenizer: TextTokenizer, max_length: int | None) -> PreTrainedTokenizerFast:
    """The run's tokenizer for transformers: the same ids, padding on the right, truncation at the
    run's length."""
    backend = tokenizer.backend
    special = {"pad_token": backend.id_to_token(tokenizer.pad)}
    if tokenizer.mask is not None:
        special["mask_token"] = backend.id_to_token(tokenizer.mask)
    known = backend.get_vocab()
    for name, token in (("unk", "[UNK]"), ("cls", "[CLS]"), ("sep", "[SEP]")):
        if token in known:
            special[f"{name}_token"] = token
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        padding_side="right",
        model_max_length=max_length or 512,
        **special,
    )
