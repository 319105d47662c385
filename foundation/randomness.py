"""Random numbers as a pure function of (seed, step, position in the global batch, purpose).

Nothing here depends on what ran before: a resumed run draws what the uninterrupted one would have
drawn, and two ranks with half the batch each draw what one rank draws for the whole batch.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


def derive_seed(*key: object) -> int:
    """A 63-bit seed from any printable key; equal keys give equal seeds on every machine and in
    every process."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device`, seeded with `derive_seed(*key)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(*key))


def seed_default(seed: int, device: torch.device) -> None:
    """Seed the default generators that operations on `device` draw from: the CPU's and the device's
    own.

    torch.manual_seed seeds every type of device, and for each unused one it formats and stores a
    stack trace: 0.4 to 3 ms per call, where this takes 2 µs.
    """
    torch.default_generator.manual_seed(seed)
    if device.type not in ("cpu", "meta"):
        getattr(torch, device.type).manual_seed(seed)


@contextmanager
def own_draws(*key: object, device: torch.device) -> Iterator[None]:
    """Inside it the default generators are seeded from the key, so that modules which are made
    there start from numbers of their own; afterwards they continue as if nothing was drawn."""
    on_device = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_device):
        seed_default(derive_seed(*key), device)
        yield


class RowNumbers(Protocol):
    """Random numbers with a row per sample, independent of how they are keyed."""

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor: ...

    def normal(self, *shape: int) -> Tensor: ...

    def integers(self, low: int, high: int, *shape: int) -> Tensor: ...


class Draw:
    """Numbers for the rows of this rank: drawn for all `total` rows of the global batch, then cut
    to `rows`.

    Every method returns a tensor whose first dimension is the number of local rows, followed by
    `shape`.
    """

    def __init__(
        self, source: torch.Generator, total: int, rows: slice, device: torch.device | str
    ):
        self.source = source
        self.total = total
        self.rows = rows
        self.device = device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float32 in [low, high)."""
        drawn = torch.rand(self.total, *shape, generator=self.source, device=self.device)
        return (drawn * (high - low) + low)[self.rows]

    def normal(self, *shape: int) -> Tensor:
        """float32, mean 0, variance 1."""
        return torch.randn(self.total, *shape, generator=self.source, device=self.device)[self.rows]

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """int64 in [low, high)."""
        size = (self.total, *shape)
        return torch.randint(low, high, size, generator=self.source, device=self.device)[self.rows]

    def bernoulli(self, probability: float, *shape: int) -> Tensor:
        """bool, True with the given probability."""
        return self.uniform(*shape) < probability

    def beta(self, a: float, b: float) -> Tensor:
        """One float32 Beta(a, b) number per row, as X / (X + Y) of two gamma variables."""
        # filled on the device: copying values there would synchronize
        params = torch.full((self.total, 2), a, device=self.device, dtype=torch.float64)
        params[:, 1].fill_(b)
        x = torch._standard_gamma(params, generator=self.source)
        # For tiny parameters both gammas underflow; the limit of Beta(a, b) is a coin on {0, 1}.
        ratio = x[:, 0] / x.sum(1)
        return torch.nan_to_num(ratio, nan=0.5).float()[self.rows]


@dataclass(frozen=True)
class Randomness:
    """All the randomness of one step on one rank.

    `step` counts micro-batches from the start of the run; `rank` and `world` place the local rows
    in the global batch (rank r holds the rows [r*n, (r+1)*n)).
    """

    seed: int
    step: int
    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"

    def draw(self, purpose: str, rows: int) -> Draw:
        """Numbers for `rows` local samples; `purpose` separates independent uses in one step."""
        local = slice(self.rank * rows, (self.rank + 1) * rows)
        return Draw(
            generator(self.seed, self.step, purpose, device=self.device),
            self.world * rows,
            local,
            self.device,
        )

    def shared(self, purpose: str, rows: int = 1) -> Draw:
        """Numbers that are equal on all ranks, e.g. one mixing coefficient per batch."""
        return Draw(
            generator(self.seed, self.step, purpose, device=self.device),
            rows,
            slice(None),
            self.device,
        )

    def on_host(self, purpose: str) -> float:
        """A number in [0, 1), equal on all ranks, for a choice of code: without a device sync."""
        return derive_seed(self.seed, self.step, purpose) / 2**63


GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)


def scramble(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) on int64, which wraps
    around."""
    z = (z ^ (z >> 30 & (1 << 34) - 1)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    z = (z ^ (z >> 27 & (1 << 37) - 1)) * (0x94D049BB133111EB - (1 << 64))
    return z ^ (z >> 31 & (1 << 33) - 1)


class SampleDraw:
    """Numbers that are a function of a row's own key, int64 [N]: a sample draws the same numbers in
    every batch."""

    def __init__(self, key: Tensor):
        self.key = key
        self.drawn = 0

    def bits(self, shape: tuple[int, ...]) -> Tensor:
        """int64 [N, *shape] with 64 random bits each; the next call continues the sequence."""
        count = math.prod(shape)
        places = torch.arange(self.drawn + 1, self.drawn + count + 1, device=self.key.device)
        self.drawn += count
        return scramble(self.key.unsqueeze(1) + places * GOLDEN).view(-1, *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float32 in [low, high)."""
        unit = (self.bits(shape) >> 40 & (1 << 24) - 1).float() * 2.0**-24
        return unit * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """float32, mean 0, variance 1 (Box and Muller)."""
        # 1 - u is in (0, 1]: its logarithm is finite
        size = torch.sqrt(-2.0 * torch.log(1.0 - self.uniform(*shape)))
        return size * torch.cos(2.0 * math.pi * self.uniform(*shape))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """int64 in [low, high)."""
        return low + (self.bits(shape) >> 1 & (1 << 62) - 1) % (high - low)


@dataclass(frozen=True)
class SampleRandomness:
    """Randomness of evaluation: a function of (seed, purpose) and of every sample's stable `index`
    [N], independent of the batch and of the number of ranks."""

    seed: int
    index: Tensor

    def draw(self, purpose: str) -> SampleDraw:
        """Numbers for the samples of `index`; `purpose` separates independent uses."""
        return SampleDraw(scramble(self.index * GOLDEN + derive_seed(self.seed, purpose)))
