"""Goes over all encoders of the installed transformers and one model of every family of timm, and
writes the pages docs/encoders.md and docs/timm.md.

    python -m tests.support.encoder_survey texts [--names bert gpt2 …] [--page docs/encoders.md]
    python -m tests.support.encoder_survey images [--names resnet18 …] [--page docs/timm.md]
"""

import argparse
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch
import transformers

from foundation.errors import UserError, first_line
from methods.peft.lora import LoRA
from recipes.networks import build_network
from recipes.networks.attention import SDPA
from recipes.networks.encoders import make_encoder
from recipes.networks.text import TextNetwork, around_encoder, masked_mean
from tests.support.tiny_encoders import MOST_PARAMETERS, encoder_types, texts, tiny_config

SECONDS = 60  # of the processor for one model; what takes longer is reported as such


class Overdue(BaseException):
    """No `Exception`, which a network would turn into a refusal of its own."""


@dataclass(frozen=True)
class Row:
    """What is known of one model. status: `runs`, `refused` or `not tiny`. reason: why not."""

    name: str
    status: str
    reason: str = ""
    network: TextNetwork | None = None


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    def stop(signum: int, frame: Any) -> None:
        raise Overdue(f"takes more than {seconds} s")

    former = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)


def survey(kind: str) -> Row:
    """A tiny encoder as a network, on the meta device and with values."""
    try:
        with torch.device("meta"):
            encoder = tiny(kind)
    except UserError as error:
        return Row(kind, "refused", error.problem)
    except Exception as error:
        return Row(kind, "not tiny", f"{type(error).__name__}: {first_line(error)[:90]}")
    if encoder.main_input_name != "input_ids":
        return Row(kind, "refused", "does not read texts")
    try:
        with torch.device("meta"):
            around_encoder(encoder, {"label": 3}, "mean", 0.0)
        planned = ""
    except UserError as error:
        planned = error.problem
    try:
        network = around_encoder(tiny(kind), {"label": 3}, "mean", 0.0)
    except UserError as error:
        assert planned, f"{kind} is refused only when it has values: {error}"
        return Row(kind, "refused", error.problem)
    assert not planned, f"{kind} is refused in the plan and runs: {planned}"
    return Row(kind, "runs", "", network)


def tiny(kind: str) -> Any:
    torch.manual_seed(0)
    encoder = make_encoder(tiny_config(kind))
    if sum(p.numel() for p in encoder.parameters()) > MOST_PARAMETERS:
        raise ValueError("has too many parameters")
    if encoder.config._attn_implementation == "sdpa":
        encoder.set_attn_implementation(SDPA)
    return encoder


@torch.no_grad()
def difference(network: TextNetwork) -> float:
    """Largest difference between our features and those of the forward on ids, relative to the
    largest value above 1."""
    network.eval()
    view = texts()
    pad = getattr(network.backbone.config, "pad_token_id", None)
    if isinstance(pad, int):
        view["ids"] = view["ids"].where(view["mask"], pad)
    features = network.features(network.embed(view))
    output = network.backbone(input_ids=view["ids"], attention_mask=view["mask"].long())
    own = masked_mean(output.last_hidden_state, view["mask"])
    return float((features - own).abs().max() / own.abs().max().clamp_min(1.0))


def families() -> dict[str, str]:
    """The smallest name of every family of timm, by module."""
    chosen: dict[str, str] = {}
    for module in timm.list_modules():
        models = timm.list_models(module=module)
        if models:
            chosen[module] = min(models, key=lambda name: (len(name), name))
    return chosen


def survey_image(name: str) -> Row:
    """A model of timm on the meta device, for pictures of the size of its weights, and what LoRA
    finds in it."""
    size = timm.models.get_pretrained_cfg(name).input_size[1:]
    info = SimpleNamespace(kind="image", shape=(3, *size))
    try:
        with torch.device("meta"):
            network = build_network(info, {"label": 3}, name=name)
    except UserError as error:
        return Row(name, "refused", error.problem)
    method = LoRA()
    method.key = "lora"
    try:
        with torch.device("meta"):
            method.surgery(network)
    except UserError as error:
        return Row(name, "runs", f"refused: {error.problem}")
    return Row(name, "runs", f"{len(network.deltas['lora'])} layers")


def page_of_texts(rows: Sequence[Row]) -> str:
    """The page of encoders: every type with what may be said of it."""
    lines = [
        "# Text encoders",
        "",
        f"Written by `python -m tests.support.encoder_survey texts` with transformers "
        f"{transformers.__version__}. Every type is tried in a tiny form with random weights: its "
        "features from embeddings are those of its own forward on ids within 1e-5, or it is "
        "refused before data is read.",
        "",
        "| type | | longest text | pooling | embedding scale | parameters never read |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.network is None:
            lines.append(f"| `{row.name}` | {row.status}: {row.reason.replace('|', '/')} | | | | |")
            continue
        network = row.network
        limit = "by its configuration" if network.max_length else "any"
        scale = "1" if network.scale == 1.0 else "√width"
        lines.append(
            f"| `{row.name}` | runs | {limit} | {first_token(network)} | {scale} "
            f"| {len(network.unused)} |"
        )
    return "\n".join(lines) + "\n"


def page_of_images(rows: Sequence[Row]) -> str:
    """The page of families of timm."""
    lines = [
        "# Families of timm",
        "",
        f"Written by `python -m tests.support.encoder_survey images` with timm {timm.__version__}: "
        "the model with the shortest name of every family, on the meta device, for pictures of the "
        "size of its weights; and where `peft=lora` works with its default settings.",
        "",
        "| model | | `peft=lora` |",
        "|---|---|---|",
    ]
    for row in rows:
        reason = row.reason.replace("|", "/")
        if row.status == "runs":
            lines.append(f"| `{row.name}` | runs | {reason} |")
        else:
            lines.append(f"| `{row.name}` | {row.status}: {reason} | |")
    return "\n".join(lines) + "\n"


def first_token(network: TextNetwork) -> str:
    """Whether `network.pooling=cls` is accepted."""
    try:
        around_encoder(network.backbone, {"label": 2}, "cls", 0.0)
    except UserError:
        return "`mean`, `last`"
    return "`mean`, `cls`, `last`"


def surveyed(names: Sequence[str], look: Any) -> list[Row]:
    rows = []
    for name in names:
        try:
            with limited(SECONDS):
                rows.append(look(name))
        except Overdue as error:
            rows.append(Row(name, "not tiny", str(error)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["texts", "images"])
    parser.add_argument("--names", nargs="*")
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    if arguments.which == "texts":
        text = page_of_texts(surveyed(arguments.names or encoder_types(), survey))
        place = arguments.page or Path("docs/encoders.md")
    else:
        names = arguments.names or sorted(families().values())
        text = page_of_images(surveyed(names, survey_image))
        place = arguments.page or Path("docs/timm.md")
    place.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
