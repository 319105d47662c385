"""A data set read and cut into the parts of a run."""

from typing import Any

import torch
from torch import Tensor

from datamodules.checks import load_checked
from datamodules.evaluation_parts import evaluation_parts
from datamodules.facts import DatasetFacts
from datamodules.further_sets import Further, load_further, parts_of
from datamodules.labeled_file import listed_rows
from datamodules.own_tasks import join_sets, with_tasks
from datamodules.part_loaders import PartLoaders
from datamodules.source import DataInfo, Loader, Splits, TextPreparation
from datamodules.sources.text import TextSource, is_large
from datamodules.splits import SplitSettings, class_counts, split_training
from datamodules.streams import Part
from datamodules.unlabeled import with_unlabeled


class CutParts(PartLoaders):
    """Base of `StreamDataModule`, which sets the attributes: see there, and `splits` for the
    cuts."""

    source: Loader
    root: str | None
    further: dict[str, Further]
    own_tasks: dict[str, Further]
    unlabeled: list[str]
    labeled: str | None
    split_settings: SplitSettings
    views: dict[str, Any]
    text: TextPreparation | None
    codec: Any
    info: DataInfo
    tasks: dict[str, int]
    classes: dict[str, list[str]]

    def prepare_data(self) -> None:
        # Lightning calls this on one process per machine before all others, so only one downloads
        self._splits = self._splits or self._load()

    def _load(self) -> Splits:
        splits = load_checked(self.source, self.root)
        self._further = {
            name: load_further(further, splits.train, self.info)
            for name, further in self.further.items()
        }
        if self.own_tasks:
            splits = self._joined(splits)
        own = {name: more.train for name, more in self._further.items()}
        return with_unlabeled(splits, self.unlabeled, self.info, self.source, own)

    def _joined(self, splits: Splits) -> Splits:
        """With the samples of the sets that have tasks of their own, which others have no labels
        of."""
        named = {task: task for task in splits.train.classes}
        joint = join_sets(splits, self.info, self.own_tasks)
        self.set_starts = joint.starts
        for name, further in self._further.items():
            self._further[name] = further.mapped(
                lambda source: with_tasks(source, named, joint.classes)
            )
        return joint.splits

    def cut(self) -> None:
        """Read the set if that has not been done, and fill `parts`. Raises UserError."""
        self._splits = splits = self._splits or self._load()
        train = splits.train
        self._fit_text(splits)
        self.classes = dict(train.classes)
        self.tasks = {task: len(names) for task, names in self.classes.items()}
        listed = None if self.labeled is None else listed_rows(self.labeled, train)
        own_val = splits.val is not None
        cut = split_training(train.targets, self.classes, self.split_settings, own_val, listed)
        pool_targets = {task: values[cut.pool] for task, values in train.targets.items()}
        self.parts = {
            "labeled": Part(train, cut.pool[cut.labeled], cut.targets, cut.labeled),
            # true labels are delivered for diagnostics only
            "unlabeled": Part(train, cut.pool, pool_targets, torch.arange(len(cut.pool))),
        }
        self.parts |= evaluation_parts("test", splits.test, splits.roles.get("test"))
        if splits.val is not None:
            self.parts |= evaluation_parts("val", splits.val, splits.roles.get("val"))
        elif len(cut.val):
            held = {task: values[cut.val] for task, values in train.targets.items()}
            self.parts["val"] = Part(train, cut.val, held, torch.arange(len(cut.val)))
        for name, further in self._further.items():
            self.parts |= parts_of(name, further)

    def _fit_text(self, splits: Splits) -> None:
        """Number the words of all parts, and fit views on the training texts."""
        if self.text is not None:
            further = [source for more in self._further.values() for source in more.sources]
            # all or none, so that words have the same numbers with and without a cache
            more = further if any(map(is_large, further)) else []
            self.codec = self.text(splits, more) if more else self.text(splits)
            for source in further:
                if isinstance(source, TextSource) and not source.encoded:
                    source.encode(self.codec)
        for view in self.views.values():
            if hasattr(view, "fit"):
                view.fit(splits.train)

    @property
    def transductive(self) -> list[str]:
        """Further sets whose evaluated samples are trained on without their labels; after setup."""
        return [
            name
            for name, splits in self._further.items()
            if name in self.unlabeled and splits.train is splits.test
        ]

    def class_counts(self, task: str = "label") -> Tensor:
        """int64 [C]: labeled training samples per class, counted with label noise applied."""
        return class_counts(self.parts["labeled"].targets[task], self.tasks[task])

    def facts(self) -> DatasetFacts:
        """What building a network needs to know about the data, after setup."""
        counts = {task: self.class_counts(task).tolist() for task in self.tasks}
        missing = [task for task in self.tasks if self.has_missing(task)]
        return DatasetFacts(
            classes=self.classes,
            counts=counts,
            missing=missing,
            sizes=self.sizes,
            tokenizer=self.codec.tokenizer if self.codec is not None else None,
        )

    @property
    def vocab_size(self) -> int | None:
        """Size of the tokenizer's vocabulary; before setup its upper bound, None for images and
        for pretrained tokenizers."""
        if self.codec is not None:
            return self.codec.tokenizer.size
        if self.text is None or self.text.pretrained is not None:
            return None
        return self.text.vocab_size
