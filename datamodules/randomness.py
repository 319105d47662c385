"""Random numbers as a pure function of (seed, step, position in the global batch, purpose).

Nothing here depends on what ran before: a resumed run draws what the uninterrupted one would have drawn, and two
ranks with half the batch each draw what one rank draws for the whole batch.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def derive_seed(*key: object) -> int:
    """A 63-bit seed from any printable key; equal keys give equal seeds on every machine and in every process."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device`, seeded with `derive_seed(*key)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(*key))


def seed_default(seed: int, device: torch.device) -> None:
    """Seed the default generators that operations on `device` draw from: the CPU's and the device's own.

    torch.manual_seed seeds every kind of device, and while one is unused it keeps a formatted stack trace for it each
    time: 0.4 to 3 ms a call, where this takes 2 µs.
    """
    torch.default_generator.manual_seed(seed)
    if device.type not in ("cpu", "meta"):
        getattr(torch, device.type).manual_seed(seed)


class Draw:
    """Numbers for the rows of this rank: drawn for all `total` rows of the global batch, then cut to `rows`.

    Every method returns a tensor whose first dimension is the number of local rows, followed by `shape`.
    """

    def __init__(self, source: torch.Generator, total: int, rows: slice, device: torch.device | str):
        self.source, self.total, self.rows, self.device = source, total, rows, device

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
        """One float32 Beta(a, b) number a row, as X / (X + Y) of two gamma variables."""
        params = torch.tensor([[a, b]], device=self.device, dtype=torch.float64).expand(self.total, 2).contiguous()
        x = torch._standard_gamma(params, generator=self.source)
        # Both gammas underflow for tiny parameters; the limit of Beta(a, b) there is a coin on {0, 1}.
        ratio = x[:, 0] / x.sum(1)
        return torch.nan_to_num(ratio, nan=0.5).float()[self.rows]


@dataclass(frozen=True)
class Randomness:
    """All the randomness of one step on one rank.

    `step` counts micro-batches from the start of the run; `rank` and `world` place the local rows in the global
    batch (rank r holds the rows [r*n, (r+1)*n)).
    """

    seed: int
    step: int
    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"

    def draw(self, purpose: str, rows: int) -> Draw:
        """Numbers for `rows` local samples; `purpose` separates independent uses in one step."""
        local = slice(self.rank * rows, (self.rank + 1) * rows)
        return Draw(generator(self.seed, self.step, purpose, device=self.device), self.world * rows, local, self.device)

    def shared(self, purpose: str, rows: int = 1) -> Draw:
        """Numbers that are equal on all ranks, e.g. one mixing coefficient a batch."""
        return Draw(generator(self.seed, self.step, purpose, device=self.device), rows, slice(None), self.device)
