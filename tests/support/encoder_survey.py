"""Goes over all encoders of the installed transformers and one model of every family of timm, and
writes the page docs/encoders.md.

    python -m tests.support.encoder_survey [--types bert gpt2 …] [--page docs/encoders.md]
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

from foundation.errors import UserError
from recipes.networks import build_network
from recipes.networks.attention import SDPA
from recipes.networks.encoders import make_encoder
from recipes.networks.text import TextNetwork, around_encoder, masked_mean
from tests.support.tiny_encoders import MOST_PARAMETERS, encoder_types, texts, tiny_config

SECONDS = 60  # for one model; what takes longer is reported as such


class Overdue(Exception):
    pass


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

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def survey(kind: str) -> Row:
    """A tiny encoder as a network, on the meta device and with values."""
    try:
        with torch.device("meta"):
            encoder = tiny(kind)
    except UserError as error:
        return Row(kind, "refused", error.problem)
    except Exception as error:
        return Row(kind, "not tiny", f"{type(error).__name__}: {str(error).splitlines()[:1]}")
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
    """A model of timm on the meta device, for pictures of the size of its weights."""
    size = timm.models.get_pretrained_cfg(name).input_size[1:]
    info = SimpleNamespace(kind="image", shape=(3, *size))
    try:
        with torch.device("meta"):
            build_network(info, {"label": 3}, name=name)
    except UserError as error:
        return Row(name, "refused", error.problem)
    return Row(name, "runs")


def page(texts_rows: Sequence[Row], image_rows: Sequence[Row]) -> str:
    """The page: every model with what may be said of it."""
    lines = [
        "# Encoders and families of networks",
        "",
        f"Written by `python -m tests.support.encoder_survey` with transformers "
        f"{transformers.__version__} and timm {timm.__version__}. Encoders are tried in a tiny form "
        "with random weights.",
        "",
        "## Text encoders",
        "",
        "| type | | longest text | first token | embedding scale | parameters never read |",
        "|---|---|---|---|---|---|",
    ]
    for row in texts_rows:
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
    lines += ["", "## Image networks, one of each family", "", "| model | |", "|---|---|"]
    lines += [f"| `{row.name}` | {row.status} {row.reason}".rstrip() + " |" for row in image_rows]
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
    parser.add_argument("--types", nargs="*", default=encoder_types())
    parser.add_argument("--families", nargs="*", default=sorted(families().values()))
    parser.add_argument("--page", type=Path, default=Path("docs/encoders.md"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    text_rows = surveyed(arguments.types, survey)
    image_rows = surveyed(arguments.families, survey_image)
    arguments.page.write_text(page(text_rows, image_rows), encoding="utf-8")


if __name__ == "__main__":
    main()
