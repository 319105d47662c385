"""A trained network for prediction: raw pictures or strings in, labels out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from datamodules.datamodule import StreamDataModule
from datamodules.facts import DatasetFacts
from datamodules.picture_form import PictureForm
from datamodules.sources.pictures import endings
from foundation.errors import UserError, nearest
from recipes.contract.remark import columns
from recipes.engine.recipe import Recipe
from recipes.networks.embedding import EMBEDDING
from recipes.networks.network import Network
from recipes.predict.inputs import Pictures, Reader, Texts
from recipes.step.step import Embedded

Returns = Literal["labels", "probabilities", "logits", "embeddings", "remarks"]
MISSING = (
    "the heads of this run cannot predict (untrained, or of other classes than the data): use "
    "returns='embeddings'"
)


class ClassNames(list[str]):
    """The class names of the only task of a run, in the order of its logits. As with the dict of a
    run with several tasks, `names[TASK]` gives them, and `keys`, `values` and `items` are there."""

    def __init__(self, task: str, names: Sequence[str]):
        super().__init__(names)
        self.task = task

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key == self.task:
                return self
            raise KeyError(key)
        return super().__getitem__(key)

    def keys(self) -> list[str]:
        return [self.task]

    def values(self) -> list["ClassNames"]:
        return [self]

    def items(self) -> list[tuple[str, "ClassNames"]]:
        return [(self.task, self)]


class Predictor(nn.Module):
    """The recipe of a finished run, for prediction with the network that the run reported.

    classes: names in the form of predictions: a list, or with several tasks a dict by task.
    classes_by_task: names by task, however many there are.
    kind: `image` or `text`.
    shape: (C, H, W) of the network's images, None for text.
    config: of the run.
    """

    def __init__(
        self, recipe: Recipe, datamodule: StreamDataModule, facts: DatasetFacts, config: DictConfig
    ):
        super().__init__()
        self.recipe = recipe
        self.classes_by_task = facts.classes
        self.classes = in_form(facts.classes)
        self.config = config
        self.kind = datamodule.kind
        self.shape = datamodule.info.shape
        self.tokenizer = facts.tokenizer
        self.max_length: int | None = getattr(datamodule.text, "max_length", None)
        view = datamodule.views["raw"]
        self.reader: Reader
        if self.tokenizer is not None and self.max_length is not None:
            self.reader = Texts(view, self.tokenizer, self.max_length)
        else:
            self.reader = Pictures(view, datamodule.info.form)

    @property
    def suffixes(self) -> frozenset[str] | None:
        """Endings of the files of pictures that a folder is searched for; None for texts."""
        return None if self.form is None else endings(self.form)

    @property
    def form(self) -> PictureForm | None:
        """What a picture is brought to before the view of evaluation; None for texts."""
        return self.reader.form if isinstance(self.reader, Pictures) else None

    @property
    def network(self) -> Network:
        """The network that the run reports: the averaged one if it evaluates one."""
        return self.recipe.reported()

    @property
    def speaks(self) -> bool:
        """Whether the heads are trained and evaluated."""
        return bool(self.recipe.evaluator.names)

    @property
    def device(self) -> torch.device:
        return next(self.recipe.parameters()).device

    def forward(self, view: Any, index: Tensor | None = None) -> dict[str, Tensor]:
        """Logits by task, float32 [N, C], as the run reports them, and the embedding, if there is
        one, under `embedding`.

        view: images [N, C, H, W] in [0, 1] or texts {"ids", "mask"} [N, L].
        index: [N], sample indices, for methods that draw random numbers.
        """
        return self.recipe.predict_logits(view, index=index)

    def embed(self, embedded: Embedded, index: Tensor | None = None) -> Tensor:
        """[N, D]: the embedding if there is one, else the features before the heads."""
        output = self.recipe.predict_output(embedded, index=index)
        found = output.logits.get(EMBEDDING, output.features).float()
        if len(found) == len(embedded.x):
            return found
        # a method with random inference returns the rows of several passes, one after the other
        return found.unflatten(0, (-1, len(embedded.x))).mean(0)

    @torch.no_grad()
    def predict(
        self,
        inputs: Any,
        returns: Returns = "labels",
        batch_size: int = 64,
        first: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> Any:
        """Predictions for raw inputs; `Pictures` and `Texts` document valid inputs.

        returns: `labels` are names of the most probable class, `probabilities` the softmax of the
            logits, [C] in the order of `classes`, `logits` [C], `embeddings` [D], see `embed`. For
            a list of inputs a list of labels, or a tensor [N, …] on the CPU; with several tasks a
            dict by task. `remarks` is a dict of what methods say about each input, by
            `METHOD/NAME`; empty where they say nothing.
        batch_size: inputs per batch.
        first: index of the first input among all, for methods that draw random numbers.
        progress: called with the number of completed inputs.

        Raises UserError for invalid inputs.
        """
        if returns not in get_args(Returns):
            raise UserError(f"returns='{returns}': {nearest(returns, get_args(Returns))}")
        if returns != "embeddings" and not self.speaks:
            raise UserError(MISSING)
        items, alone = self.reader.items(inputs)
        parts = list(self.batches(items, returns, batch_size, first, progress))
        values = {task: torch.cat([part[task] for part in parts]) for task in parts[0]}
        if returns == "embeddings":
            return values[EMBEDDING][0] if alone else values[EMBEDDING]
        if returns == "remarks":
            return {name: rows[0] if alone else rows for name, rows in values.items()}
        found = {task: self.put(task, value, returns) for task, value in values.items()}
        if alone:
            found = {task: value[0] for task, value in found.items()}
        return found if len(found) > 1 else next(iter(found.values()))

    def batches(
        self,
        items: list[Any],
        returns: Returns,
        batch_size: int,
        first: int,
        progress: Callable[[int], None] | None,
    ) -> Iterator[dict[str, Tensor]]:
        """Outputs batch by batch, on the CPU. Without inputs: zero rows of a synthetic batch, which
        have the right shapes."""
        self.eval()
        if not items:
            outputs = self.outputs(self.network.example(), returns)
            yield {name: rows[:0] for name, rows in outputs.items()}
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            embedded = self.network.embed(self.reader.view(batch, self.device))
            index = first + torch.arange(start, start + len(batch), device=self.device)
            yield self.outputs(embedded, returns, index)
            if progress is not None:
                progress(start + len(batch))

    def outputs(
        self, embedded: Embedded, returns: Returns, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        if returns == "embeddings":
            found = {EMBEDDING: self.embed(embedded, index).cpu()}
        else:
            logits = self.recipe.predict(embedded, index=index)
            found = {task: logits[task].cpu() for task in self.classes_by_task}
        for rows in found.values():
            self.check_numbers(rows, index)
        if returns == "remarks":
            remarks = columns(self.recipe.remarks(embedded, logits, index))
            return {name: rows.cpu() for name, rows in remarks.items()}
        return found

    def check_numbers(self, rows: Tensor, index: Tensor | None) -> None:
        """Raise UserError for outputs [N, …] that are NaN, which have no class: of the weights if
        they are damaged, else of the input."""
        undefined = (rows.isnan() | rows.isposinf()).flatten(1).any(1).cpu()
        if not undefined.any():
            return
        for name, weight in self.recipe.state_dict().items():
            if weight.is_floating_point() and not weight.isfinite().all():
                raise UserError("run", f"its weight '{name}' is NaN or infinite", "train it again")
        first = int(undefined.nonzero()[0])
        number = first if index is None else int(index[first])
        raise UserError("inputs", f"the network's output for input {number + 1} is NaN or infinite")

    def put(self, task: str, logits: Tensor, returns: Returns) -> Any:
        if returns == "labels":
            return [self.classes_by_task[task][c] for c in logits.argmax(1).tolist()]
        return logits.softmax(1) if returns == "probabilities" else logits


def in_form(classes: Mapping[str, list[str]]) -> Any:
    """Class names in the form in which `predict` gives its labels."""
    if len(classes) != 1:
        return dict(classes)
    task, names = next(iter(classes.items()))
    return ClassNames(task, names)
