"""Tiny networks of every kind the family claims, and what their tests share."""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
)

from methods.peft.surgeon import PEFTMethod
from recipes.networks import build_network
from recipes.networks.encoders import encoder_part
from recipes.networks.network import Network
from recipes.networks.text import TextNetwork, around_encoder
from recipes.step import Embedded

VIT = {"embed_dim": 32, "depth": 2, "num_heads": 4}
WINDOWS = {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
IMAGE: dict[str, tuple[str, tuple[int, int, int], dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", (3, 32, 32), {**VIT, "patch_size": 8}),
    "vit_avg": (
        "vit_tiny_patch16_224",
        (3, 32, 32),
        {**VIT, "patch_size": 8, "global_pool": "avg"},
    ),
    "beit": ("beit_base_patch16_224", (3, 32, 32), {**VIT, "patch_size": 8}),
    "eva": ("eva02_tiny_patch14_224", (3, 28, 28), VIT),
    "swin": ("swin_tiny_patch4_window7_224", (3, 64, 64), WINDOWS),
    "swinv2": ("swinv2_tiny_window8_256", (3, 64, 64), WINDOWS),
    "convnext": ("convnext_atto", (3, 32, 32), {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1)}),
    "resnet": ("resnet18", (3, 32, 32), {"channels": (8, 8, 16, 16), "zero_init_last": False}),
    "digits_cnn": ("digits_cnn", (1, 8, 8), {"width": 8}),
}
SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 60,
}
TEXT: dict[str, Any] = {
    "bert": lambda: BertConfig(**SIZE),
    "roberta": lambda: RobertaConfig(**SIZE),
    "albert": lambda: AlbertConfig(**SIZE, embedding_size=16),
    "electra": lambda: ElectraConfig(**SIZE, embedding_size=16),
    "distilbert": lambda: DistilBertConfig(
        vocab_size=60, dim=32, n_layers=2, n_heads=4, hidden_dim=64
    ),
    "modernbert": lambda: ModernBertConfig(
        **SIZE, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
    ),
    "deberta": lambda: DebertaV2Config(**SIZE),
}


def network(name: str, tasks: dict[str, int] | None = None, seed: int = 0) -> Network:
    """A network of the tables above, in training mode, its norms no longer as they start (Swin-V2's
    are zero)."""
    tasks = tasks or {"label": 5}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in IMAGE:
            model, shape, options = IMAGE[name]
            made = build_network(
                SimpleNamespace(kind="image", shape=shape), tasks, name=model, options=options
            )
        else:
            made = text_network(AutoModel.from_config(TEXT[name]()), tasks)
        for module in made.modules():
            if isinstance(module, nn.LayerNorm) and module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
            if module.__class__.__name__ == "LayerScale":
                nn.init.uniform_(module.gamma, 0.5, 1.5)
    return made


def text_network(encoder: Any, tasks: dict[str, int], pooling: Any = "mean") -> TextNetwork:
    """As `build_text` finishes an encoder."""
    if encoder.config._attn_implementation == "sdpa":
        encoder.set_attn_implementation("roux_sdpa")
    return around_encoder(encoder_part(encoder), tasks, pooling, drop_rate=0.0).train()


def operate(method: PEFTMethod, made: Network, key: str) -> Network:
    """The network with the method in it."""
    method.key = key
    method.surgery(made)
    return made


def fill(made: Network, key: str, std: float = 0.1) -> None:
    """Random numbers in all deltas of a method."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in made.deltas[key].parameters():
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def features(made: Network, example: Embedded | None = None) -> Tensor:
    """Features of the example in evaluation mode."""
    made.eval()
    found = made.features(example or made.example())
    made.train()
    return found


def says_the_same_whatever_is_padding(made: Network, plain: Network) -> bool:
    """Whether the network, which must say something else than the plain one, minds neither what
    stands on padding nor how much of it there is."""
    x, mask, _ = made.example()
    assert mask is not None
    said = features(made, Embedded(x, mask))
    assert float((said - features(plain, Embedded(x, mask))).abs().max()) > 1e-3
    other = Embedded(torch.where(mask.unsqueeze(-1), x, torch.randn_like(x)), mask)
    longer = Embedded(F.pad(x, (0, 0, 0, 4)), F.pad(mask, (0, 4)))
    return all(torch.allclose(features(made, e), said, atol=1e-5, rtol=0) for e in (other, longer))


def counts(made: Network) -> tuple[int, int]:
    """(trained, frozen) parameters, heads left out."""
    body = [p for name, p in made.named_parameters() if not name.startswith("heads.")]
    trained = sum(p.numel() for p in body if p.requires_grad)
    return trained, sum(p.numel() for p in body) - trained
