"""Training batches of all streams of a run: their orders, their loader, and where the run stands in
them."""

from collections.abc import Sequence
from typing import Any, Literal

from datamodules.clock import Clock
from datamodules.cut_parts import CutParts
from datamodules.own_tasks import SetsInTurn
from datamodules.samplers import MakeOrder, Order, ShuffledPasses, StepSampler
from datamodules.streams import Part, StepDataset, StepLoader, StreamRequest
from datamodules.views.image.own_views import own_views
from foundation.errors import UserError

# training batches on which moments are estimated, and their largest size
REFERENCE_BATCHES = 4
REFERENCE_SAMPLES = 256
Mix = Literal["equal", "proportional"]


class StreamLoaders(CutParts):
    """Base of `StreamDataModule`.

    streams: names of those that are loaded. own_streams: those of methods.
    orders: of the samples of a stream, by stream; shuffled passes for one without.
    live: when an order changes, by stream.
    mix: how batches are made of sets with tasks of their own. set_starts: where the training
        samples of each begin, after reading; empty without such sets.
    views: by name. asked_views: names of those that steps need, by stream.
    The other settings: see `StreamDataModule`.
    """

    def __init__(
        self,
        batch_size: int,
        unlabeled_ratio: int,
        eval_batch_size: int,
        num_workers: int,
        device_memory: float | Literal["auto"],
        views: dict[str, Any],
        seed: int,
    ):
        super().__init__(eval_batch_size, num_workers, device_memory)
        self.batch_size = batch_size
        self.unlabeled_ratio = unlabeled_ratio
        self.views = views
        self.seed = seed
        self.streams = {"labeled"}
        self.own_streams: dict[str, StreamRequest] = {}
        self.orders: dict[str, MakeOrder] = {}
        self.live: dict[str, list[Clock]] = {}
        self.asked_views: dict[str, Sequence[str]] = {}
        self._reference: list[dict[str, dict[str, Any]]] = []
        self._position = 0
        self.mix: Mix = "equal"
        self.set_starts: list[int] = []

    def batch_sizes(self) -> dict[str, int]:
        """Samples of each stream in one micro-batch, over all ranks."""
        sizes = {"labeled": self.batch_size, "unlabeled": self.batch_size * self.unlabeled_ratio}
        for stream, request in self.own_streams.items():
            sizes[stream] = self.batch_size * request.per_labeled
        return {stream: sizes[stream] for stream in sorted(self.streams)}

    def part_of(self, stream: str) -> Part:
        """The samples of a stream, after setup."""
        own = self.own_streams.get(stream)
        return self.parts[stream if own is None else own.part]

    def train_dataloader(self) -> StepLoader:
        rank, world, total = self._where()
        if self.batch_size % world:
            raise UserError(
                f"data.batch_size={self.batch_size} is the batch over all ranks, "
                f"it must divide by their number, {world}"
            )
        if total < 1:
            raise UserError(
                "trainer.max_steps must be set: streams are endless, a run has a number of steps"
            )
        sizes = self.batch_sizes()
        orders = {name: self._order(name, size, total) for name, size in sizes.items()}
        sampler = StepSampler(
            orders, sizes, total, rank, world, lambda: self.position, self.horizon
        )
        own = own_views(self.views, self.asked_views, self.seed, rank, world)
        # transforms of one's own run on the host
        place = self._placed if own is None else lambda part: part
        parts = {stream: place(self.part_of(stream)) for stream in sizes}
        dataset = StepDataset(parts, own)
        return StepLoader(
            dataset,
            sampler,
            persistent=True,
            state=self.state_dict,
            restore=self.load_state_dict,
            **self._options(parts["labeled"]),
        )

    def pass_steps(self, stream: str) -> float:
        """Optimizer steps in which a stream is read once."""
        return len(self.part_of(stream)) / self.batch_sizes()[stream] / self._accumulated()

    def horizon(self, position: int) -> int:
        """The micro-batch, later than a position, before which an order may change."""
        total = self._where()[2]
        each = self._accumulated()
        clocks = [clock for clocks in self.live.values() for clock in clocks]
        times = [c.next_after(position // each, total // each, self.pass_steps) for c in clocks]
        return min((time * each for time in times if time is not None), default=total)

    def _order(self, stream: str, batch_size: int, total: int) -> Order:
        part = self.part_of(stream)
        if stream in self.orders:
            return self.orders[stream](part.targets, batch_size, total, self.seed, stream)
        if stream == "labeled" and self.set_starts and self.mix == "equal":
            return SetsInTurn(part.rows, self.set_starts, self.seed, stream)
        return ShuffledPasses(len(part), self.seed, stream)

    def reference_batches(self) -> list[dict[str, dict[str, Any]]]:
        """The run's first training batches as raw data, {stream: batch}, for estimates on training
        samples.

        Each has at most `REFERENCE_SAMPLES` samples, in the ratio of the streams; the same on every
        rank. They are read once and cached: their number does not grow with the data.
        """
        if self._reference:
            return self._reference
        sizes = self.batch_sizes()
        total = self._where()[2]
        share = min(1.0, REFERENCE_SAMPLES / sum(sizes.values()))
        # a live order would give other samples to a run that resumes after it has changed
        orders = {
            stream: ShuffledPasses(len(self.part_of(stream)), self.seed, stream)
            if stream in self.live
            else self._order(stream, size, total)
            for stream, size in sizes.items()
        }
        for number in range(REFERENCE_BATCHES):
            batch = {}
            for stream, size in sizes.items():
                start = number * size
                rows = orders[stream].take(start, start + max(2, int(share * size)))
                batch[stream] = self.part_of(stream).fetch(rows)
            self._reference.append(batch)
        return self._reference

    def drawn_samples(self, count: int) -> dict[str, Any]:
        """Up to `count` labeled training samples, drawn by the seed, the same on every rank."""
        part = self.parts["labeled"]
        rows = ShuffledPasses(len(part), self.seed, "drawn").take(0, min(count, len(part)))
        return part.fetch(rows)

    # -- where the run stands ----------------------------------------------------------------------
    @property
    def position(self) -> int:
        """Micro-batches done: the trainer's count, else the restored one."""
        # not the sampler's count: workers fetch ahead
        done = 0
        if self.trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress
            # Lightning annotates `total` as its base class, which lacks `processed`
            done = progress.total.processed  # type: ignore[attr-defined]
        return done or self._position

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._position = int(state["position"])

    def teardown(self, stage: str | None = None) -> None:
        # the next stage of a recipe restarts its streams
        self._position = 0
