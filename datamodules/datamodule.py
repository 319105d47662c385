"""The data of a run: streams for training, parts for evaluation, and views."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from datamodules.clock import Clock
from datamodules.further_sets import further_sets, look_at, previewed
from datamodules.own_tasks import check_streams, joint_info
from datamodules.samplers import MakeOrder
from datamodules.source import DataInfo, Loader, TextPreparation
from datamodules.splits import SplitSettings
from datamodules.stream_loaders import Mix, StreamLoaders
from datamodules.streams import StreamRequest
from datamodules.unlabeled import count_unlabeled
from datamodules.views.named import named_view, usable_views, view_called
from foundation.errors import UserError, nearest
from foundation.randomness import Draw
from foundation.types import (
    BatchSize,
    Count,
    Processes,
    Ratio,
    Seed,
    Share,
    ShareBelowOne,
    Weight,
)


class StreamDataModule(StreamLoaders):
    """Streams of raw samples; see `splits` for the cuts and `samplers` for the order.

    source: loader of the data set, a class of `datamodules.sources`.
    root: folder that holds the set; null: the cache, filled by a download.
    batch_size: labeled samples of a micro-batch, over all ranks, at least 1.
    unlabeled_ratio: unlabeled samples for each labeled one, at least 1; 7 (μ of FixMatch).
    eval_batch_size: samples of an evaluation batch on each rank, at least 1.
    labels_per_class: labels kept in each class, at least 1; null: all. With an imbalance_factor
        their mean, in the profile of the training data and at least one a class.
    imbalance_factor: n_max / n_min of a long-tailed cut, at least 1; null: the set as it is. Class
        0 is the largest.
    imbalance: profile of the class counts: `exp` or `step`.
    imbalance_subset: samples kept: `seeded` by split_seed, or `legacy`, those of LDAM-DRW's code.
    few_below: classes with fewer labeled samples are reported as few-shot, at least 1.
    many_above: classes with more labeled samples are reported as many-shot, at least 1; the rest as
        medium-shot.
    label_noise: share of the labels replaced by another class, 0 to 1.
    val_fraction: share of the training data held out for validation, in [0, 1); 0: none. Of the
        long-tailed cut, unless the set brings a validation part.
    split_seed: seed of all cuts.
    seed: seed of the order of samples.
    num_workers: processes that fetch, at least 0; 0 is right for sets in memory.
    device_memory: GiB of a GPU for sets in memory, at least 0; `auto`: a quarter of what is free;
        0: none. Batches are then gathered there. Other sets are pinned. With num_workers all stay
        on the host.
    views: views by name, without a trailing digit; null takes a view away.
    text: for texts: the tokenizer's settings; null: images. A function of the set's parts that
        numbers their words and gives the codec.
    unlabeled: folder of pictures or file of texts without labels, or a list of them; null: none.
        Pictures at any depth, whatever their folders are called; a csv, tsv, jsonl or parquet
        (column of the texts as in the set) or a txt with a text a line. They are training samples,
        for methods that use unlabeled data.
    labels: labels kept in all, in equal numbers of each class, at least one each; null: all.
    labeled: txt, json or npy file that lists the samples that keep their labels; null: none. By
        position in the training part or by name; for published splits.
    sources: further sets by name, evaluated as `NAME_test/accuracy`. A folder or file is read as
        the set itself is; a mapping has the `source`, a loader, and its `root`. Their classes are
        those of the set itself. `data.unlabeled=[NAME]` trains on their samples without labels.
        `tasks: own`: their labels are tasks of their own, whose samples are trained on.
    mix: batches of sets with tasks of their own: `equal` or `proportional`. As many samples of each
        set, or by their sizes.
    input_size: side of the square that the views make of a stored picture, in pixels, at least 1;
        null: that of the stored one.
    """

    def __init__(
        self,
        source: Loader,
        root: str | None = None,
        batch_size: BatchSize = 64,
        unlabeled_ratio: Ratio = 7,
        eval_batch_size: BatchSize = 256,
        labels_per_class: Count | None = None,
        imbalance_factor: Annotated[float, Field(ge=1)] | None = None,
        imbalance: Literal["exp", "step"] = "exp",
        imbalance_subset: Literal["seeded", "legacy"] = "seeded",
        few_below: Count = 20,
        many_above: Count = 100,
        label_noise: Share = 0.0,
        val_fraction: ShareBelowOne = 0.1,
        split_seed: Seed = 0,
        seed: Seed = 0,
        num_workers: Processes = 0,
        device_memory: Literal["auto"] | Weight = "auto",
        views: dict[str, Any] | None = None,
        text: TextPreparation | None = None,
        unlabeled: str | list[str] | None = None,
        labels: Count | None = None,
        labeled: str | None = None,
        sources: dict[str, Any] | None = None,
        input_size: Count | None = None,
        mix: Mix = "equal",
    ):
        super().__init__(
            batch_size,
            unlabeled_ratio,
            eval_batch_size,
            num_workers,
            device_memory,
            usable_views(views or {}),
            seed,
        )
        self.source = source
        self.root = root
        sets = further_sets(sources or {}, source, root)
        self.further = {name: more for name, more in sets.items() if not more.own_tasks}
        self.own_tasks = {name: more for name, more in sets.items() if more.own_tasks}
        if mix != "equal" and not self.own_tasks:
            problem = "is for sets with tasks of their own"
            raise UserError(f"data.mix={mix}", problem, "add data.sources.NAME with tasks: own")
        self.mix = mix
        self.unlabeled = [unlabeled] if isinstance(unlabeled, str) else list(unlabeled or [])
        for name in sorted(self.own_tasks.keys() & set(self.unlabeled)):
            problem = "is a set with tasks of its own"
            raise UserError(f"data.unlabeled={name}", problem, "leave one out")
        self.split_settings = SplitSettings(
            labels_per_class,
            labels,
            imbalance_factor,
            imbalance,
            imbalance_subset,
            label_noise,
            val_fraction,
            split_seed,
        )
        given = {"labels_per_class": labels_per_class, "labels": labels, "labeled": labeled}
        chosen = [f"data.{name}={value}" for name, value in given.items() if value is not None]
        if len(chosen) > 1:
            raise UserError(" and ".join(chosen), "both say which labels are kept", "leave one out")
        self.labeled = labeled
        if few_below > many_above + 1:
            raise UserError(
                f"data.few_below={few_below}: expected at most data.many_above + 1 = "
                f"{many_above + 1}"
            )
        self.shots = (few_below, many_above)
        self.text = text
        self.codec: Any = None
        self.input_size = input_size
        own = {name: more.loader.info() for name, more in self.own_tasks.items()}
        self.info: DataInfo = joint_info(source.info(), own).seen_at(input_size)
        self.kind = self.info.kind
        self.tasks: dict[str, int] = {}
        self.classes: dict[str, list[str]] = {}

    # -- requests of methods, before anything is read ----------------------------------------------
    def request(
        self,
        streams: Iterable[str],
        orders: Mapping[str, MakeOrder] | None = None,
        own: Mapping[str, StreamRequest] | None = None,
        views: Mapping[str, Sequence[str]] | None = None,
        live: Mapping[str, list[Clock]] | None = None,
    ) -> None:
        """Request streams; the requests of all methods are merged.

        orders: the order of samples by stream; shuffled passes for a stream without one.
        own: streams beside `labeled` and `unlabeled`, by name.
        views: full names of the views that steps need, by stream.
        live: when orders change, by stream.
        """
        streams = set(streams)
        check_streams(self.own_tasks, streams, orders or {})
        self.own_streams |= own or {}
        known = {"labeled", "unlabeled", *self.own_streams}
        for stream in streams:
            if stream not in known:
                raise UserError(f"data: there is no stream '{stream}'; {nearest(stream, known)}")
            self.streams.add(stream)
        self.orders |= orders or {}
        self.asked_views |= views or {}
        self.live |= live or {}

    def view_names(self) -> set[str]:
        """Names of the views this data has, without trailing digits."""
        return set(self.views)

    def look(self) -> None:
        """Learn what data of one's own have, as far as it is cheap: for the plan. Raises UserError
        if they are not there."""
        preview = getattr(self.source, "preview", None)
        info = self.source.info() if preview is None else preview(self.root)
        own = {name: previewed(more) for name, more in self.own_tasks.items()}
        self.info = joint_info(info, own).seen_at(self.input_size)
        for more in self.further.values():
            look_at(more, self.info)
        places = [place for place in self.unlabeled if place not in self.further]
        further = count_unlabeled(places, self.info)
        self.info = replace(self.info, unlabeled=self.info.unlabeled + further)

    def setup(self, stage: str | None = None) -> None:
        if self.parts:
            return
        self.cut()
        for stream, size in self.batch_sizes().items():
            # made here once only to raise errors before the run starts
            self._order(stream, size, self._where()[2])

    # -- views -------------------------------------------------------------------------------------
    def make_view(
        self, stream: Any, name: str, draw_for: Callable[[str], Draw] | None = None
    ) -> Any:
        """The view `name` of a batch of raw samples, on the batch's device.

        stream: raw data, or the {"data", "targets", "index"} that a loader delivers.
        name: `raw`, `weak`, `strong` …; a trailing digit is another independent draw of the same
            transform.
        draw_for: random numbers by purpose. The view's full name is prefixed to each purpose, the
            caller prefixes the stream's. `raw` needs none.
        """
        data = stream["data"] if isinstance(stream, Mapping) and "targets" in stream else stream
        return named_view(self.views, data, name, draw_for)

    def is_on_host(self, name: str) -> bool:
        """Whether a view is computed on the host, picture by picture, wherever the batch is."""
        return getattr(view_called(self.views, name), "on_host", False)

    def view_states(self) -> dict[str, nn.Module]:
        """What views have learned, by the name of the view."""
        states = {name: getattr(view, "state", None) for name, view in self.views.items()}
        return {name: state for name, state in states.items() if isinstance(state, nn.Module)}

    def decode(self, view: Mapping[str, Tensor]) -> list[str]:
        """A text view {"ids", "mask"} [B, L] as strings, for people."""
        if self.codec is None:
            raise ValueError("only texts can be decoded, after setup")
        return self.codec.decode(view["ids"], view["mask"])
