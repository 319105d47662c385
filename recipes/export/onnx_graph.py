"""format=onnx: the whole prediction in one graph, from images in [0, 1] or token ids to logits,
checked in onnxruntime.

What methods do at prediction is part of the graph: input filters, changed logits, averaged weights,
prompts. Inputs: `pictures` [N, C, H, W] float32; for texts `ids` int64 and `mask` bool [N, L].
Outputs: `logits` (`logits_TASK` with several tasks) and `embedding`, or `features` if there is
none. N and L are dynamic.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.files import write_json, write_text
from foundation.randomness import SampleRandomness
from recipes.export.card import card
from recipes.export.folding import CLOSE, difference, examples
from recipes.networks.embedding import EMBEDDING
from recipes.predict.predictor import Predictor

INSTALL = "pip install 'roux[export]' for onnx, onnxruntime and onnxscript"
BATCHES = ((2, 8), (1, 3), (5, 13))  # rows and tokens of the inputs that are compared


class Graph(nn.Module):
    """Tensors in, tensors out, in a fixed order."""

    def __init__(self, predictor: Predictor):
        super().__init__()
        self.predictor = predictor
        tasks = list(predictor.classes_by_task) if predictor.speaks else []
        self.logits = {f"logits_{task}" if len(tasks) > 1 else "logits": task for task in tasks}
        self.last = "embedding" if EMBEDDING in predictor.network.heads else "features"
        self.inputs = ["pictures"] if predictor.kind == "image" else ["ids", "mask"]
        self.outputs = [*self.logits, self.last]

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        recipe = self.predictor.recipe
        view = given[0] if len(given) == 1 else dict(zip(self.inputs, given, strict=True))
        embedded = self.predictor.network.embed(view)
        # the number of rows stays free: it must not pass through a Python number
        rows = torch.arange(embedded.x.shape[0], device=embedded.x.device)
        output = recipe.predict_output(embedded, randomness=SampleRandomness(recipe.seed, rows))
        logits = {task: output.logits[task].float() for task in self.logits.values()}
        for method in recipe.methods_at["infer"]:
            logits |= {task: method.infer(logits[task], task, recipe) for task in logits}
        return (*logits.values(), output.logits.get(EMBEDDING, output.features).float())

    def arguments(self, view: Any) -> tuple[Tensor, ...]:
        return (view,) if isinstance(view, Tensor) else tuple(view[name] for name in self.inputs)


def write_onnx(predictor: Predictor, folder: Path) -> float:
    """model.onnx, config.json, for texts tokenizer.json. Returns the largest difference from the
    run's own outputs."""
    try:
        import onnx
        import onnxruntime  # noqa: F401  (fail before the export, which takes minutes)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"format=onnx: {error.name} is not installed; {INSTALL}") from None
    graph = Graph(predictor).eval()
    path = folder / "model.onnx"
    translate(graph, path)
    model = onnx.load(path)
    said = card(predictor, opset=model.opset_import[0].version, outputs=graph.outputs)
    classes = json.dumps(predictor.classes_by_task)
    for name, value in (("config", json.dumps(said)), ("classes", classes)):
        entry = model.metadata_props.add()
        entry.key = f"roux.{name}"
        entry.value = value
    onnx.save(model, path)
    try:
        worst = compared(graph, path)
    except Exception as error:  # onnxruntime has exceptions of its own, without a common base
        raise UserError(
            f"format=onnx: onnxruntime cannot run the graph ({reason(error)}); it was deleted"
        ) from error
    if worst > CLOSE:
        raise UserError(
            f"format=onnx: the graph's outputs differ from the run's (by {worst:.1e}); it was "
            "deleted"
        )
    write_json(folder / "config.json", said)
    if predictor.tokenizer is not None:
        write_text(folder / "tokenizer.json", predictor.tokenizer.backend.to_str(pretty=False))
    return worst


def translate(graph: Graph, path: Path) -> None:
    """Export the graph. Raises UserError if the network cannot be represented in ONNX."""
    free: dict[int, Any] = {0: torch.export.Dim("batch")}
    if graph.predictor.kind == "text":
        free[1] = torch.export.Dim("length")
    arguments = graph.arguments(examples(graph.predictor, *BATCHES[0]))
    arguments = tuple(a.to(graph.predictor.device) for a in arguments)
    try:
        with torch.no_grad(), quiet():
            torch.onnx.export(
                graph,
                arguments,
                path,
                input_names=graph.inputs,
                output_names=graph.outputs,
                dynamic_shapes=(tuple(dict(free) for _ in arguments),),
                dynamo=True,
                external_data=False,
            )
    except Exception as error:  # the stages of the exporter raise various exceptions
        logging.getLogger(__name__).debug("export failed", exc_info=True)
        raise UserError(
            f"format=onnx: this network cannot be represented in ONNX ({reason(error)})"
        ) from error


def reason(error: BaseException) -> str:
    """The first line of the root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


@torch.no_grad()
def compared(graph: Graph, path: Path) -> float:
    """The largest difference between the file in onnxruntime and the run, over batches of several
    shapes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for rows, length in BATCHES:
        arguments = graph.arguments(examples(graph.predictor, rows, length))
        given = {name: value.numpy() for name, value in zip(graph.inputs, arguments, strict=True)}
        expected = graph(*(a.to(graph.predictor.device) for a in arguments))
        arrays = session.run(graph.outputs, given)
        found = dict(zip(graph.outputs, map(torch.from_numpy, arrays), strict=True))
        own = {name: value.cpu() for name, value in zip(graph.outputs, expected, strict=True)}
        worst = max(worst, difference(found, own))
    return worst


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the exporter's progress and its warnings."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
