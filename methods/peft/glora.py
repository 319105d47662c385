"""GLoRA. Chavan et al., One-for-All: Generalized LoRA for Parameter-Efficient Fine-tuning, 2023,
arXiv 2306.07967."""

from dataclasses import replace
from typing import Any, Literal

from torch import nn

from foundation.awaited import is_awaited
from foundation.errors import UserError
from foundation.types import Count
from methods.peft.glora_format import read_glora, write_glora
from methods.peft.glora_forms import Forms, Kind, read_forms
from methods.peft.glora_layer import General, Support, bias_change, changed_weight
from methods.peft.glora_supernet import Draw, Shared, shared_layers
from methods.peft.lora import LoRA
from methods.peft.sites import Site, is_linear
from methods.peft.weights import attach
from recipes.contract import Context, Declaration
from recipes.contract.method import Closure
from recipes.networks.network import Network
from recipes.step import Step

__all__ = ["GLoRA", "General", "Support", "bias_change", "changed_weight"]


class GLoRA(LoRA):
    """y = (W + W ⊙ A + B) x + b + W C + D ⊙ b + E: a frozen layer gets a scaled and shifted weight
    and bias, of which each part has its own form.

    A, B: [d_out, d_in]; C: [d_in, 1]; D, E: [d_out]. All start at zero, so the output is unchanged
    before training, and all of it can be merged; a layer without bias has no D, and gets a bias by
    C and E when merged. W ⊙ A is elementwise, as in the authors' code and the peft library; the
    paper writes a product. The changed weight is computed in every step: the cost is that of a
    gradient of W. With `mode=supernet` every step draws the forms of every layer anew, up to those
    below, and is evaluated with the largest ones; `recipe=glora_search` then searches for the best
    ones under a limit of parameters (paper). It changes the same weights as LoRA and DoRA and
    refuses them. Learning rates: AdamW 1e-4 to 1e-3.

    rank: r of the `lora` forms, at least 1; 4 (paper).
    a: form of A: `lora`, `vector` (one number a row), `scalar` or `none`.
    b: form of B: `lora`, `vector`, `scalar` or `none`.
    c: form of C: `lora`, `vector` or `none`.
    d: form of D: `vector`, `scalar` or `none`.
    e: form of E: `vector`, `scalar` or `none`.
    mode: the forms are `fixed` (ours), or drawn in every step, `supernet` (paper).
    forms: forms.json of a search, forms by layer in place of a to e; null: none.
    targets: layers by role or pattern, as for `lora`; null: queries and values, else convolutions.
    qkv: a fused query-key-value layer has supports for each part, `split`, or in common, `shared`
        (peft).
    load: delta of another run, or a folder in the peft library's format, to start from; null: none.
    """

    structure_files = ("forms",)
    declaration = Declaration(
        tags=("delta", "low_rank"),
        refuses={"low_rank": "B is a LoRA already, and the scale A would not be that of the sum"},
    )

    def __init__(
        self,
        rank: Count = 4,
        a: Kind = "lora",
        b: Kind = "lora",
        c: Literal["lora", "vector", "none"] = "lora",
        d: Literal["vector", "scalar", "none"] = "vector",
        e: Literal["vector", "scalar", "none"] = "vector",
        mode: Literal["fixed", "supernet"] = "fixed",
        forms: str | None = None,
        targets: list[str] | None = None,
        qkv: Literal["split", "shared"] = "split",
        load: str | None = None,
    ):
        super().__init__(rank, targets=targets, qkv=qkv, load=load)
        self.kinds: dict[str, Kind] = {"a": a, "b": b, "c": c, "d": d, "e": e}
        self.mode = mode
        self.forms = forms

    def declare(self) -> Declaration:
        if all(kind == "none" for kind in self.kinds.values()):
            problem = "a, b, c, d and e are all 'none', so nothing would be trained"
            raise UserError(f"methods.{self.key}", problem, "give one of them a form")
        if self.mode == "supernet" and self.forms is not None:
            problem = "a supernet draws its forms"
            raise UserError(f"methods.{self.key}.forms", problem, "leave one of mode and forms out")
        if self.mode == "supernet":
            return replace(self.declaration, uncompiled="forms differ between steps")
        return self.declaration

    def attach(self, network: Network) -> None:
        deltas = self.layers(list(self.sites(network)))
        network.deltas[self.key] = nn.ModuleList(deltas)
        silent = attach(network, deltas)
        shifting = [name for name in ("c", "d", "e") if self.kinds[name] != "none"]
        if silent and shifting:
            layer = network.backbone.get_submodule(silent[0].site)
            what = "linear layer" if is_linear(layer) else "convolution"
            raise UserError(
                f"methods.{self.key}.{shifting[0]}={self.kinds[shifting[0]]}",
                f"{type(network.backbone).__name__} reads the weight of the {what} "
                f"'{silent[0].site}' without calling it, so its bias cannot be changed",
                " and ".join(f"set methods.{self.key}.{name}=none" for name in shifting),
            )

    def layers(self, sites: list[Site]) -> list[General]:
        """What is attached to each site."""
        if self.mode == "supernet":
            draw = Draw()
            return [
                Shared(site, self.rank, self.kinds, number, draw)
                for number, site in enumerate(sites)
            ]
        forms: list[Forms] = [self.kinds] * len(sites)
        if self.forms is not None and not is_awaited(self.forms):
            names = [place_name(site) for site in sites]
            forms = read_forms(self.forms, names, f"methods.{self.key}.forms")
        return [General(site, self.rank, own) for site, own in zip(sites, forms, strict=True)]

    def prepare(self, step: Step, context: Context) -> None:
        for layer in shared_layers(context.network.deltas[self.key]):
            layer.draw.key = (context.seed, step.progress.step, self.key)
            break  # all layers have one draw

    def wrap_step(self, closure: Closure, optimizer: Any, context: Context) -> Any:
        result = closure()
        for layer in shared_layers(context.network.deltas[self.key]):
            for parameter in layer.idle():
                parameter.grad = None
        return result

    def may_be_idle(self, name: str) -> bool:
        # D scales the bias, which is zero in a fresh network; the forms of a search were those of a
        # supernet, where a scalar that is alone may meet activations that are all cut off
        return name.endswith(".d") or self.forms is not None

    read_folder = staticmethod(read_glora)
    write_folder = staticmethod(write_glora)


def place_name(site: Site) -> str:
    """A layer, and the rows of a fused one: `blocks.0.attn.qkv[0:64]`."""
    if site.rows is None:
        return site.name
    start, stop = site.rows
    return f"{site.name}[{start}:{stop}]"
