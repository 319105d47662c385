"""4-bit NormalFloat (NF4) with double quantisation. Dettmers et al., QLoRA: Efficient Finetuning of
Quantized LLMs, NeurIPS 2023, arXiv 2305.14314; the 8-bit map of the constants after Dettmers, 8-Bit
Approximations for Parallelism in Deep Learning, ICLR 2016, arXiv 1511.04561.

The layout is that of bitsandbytes: blocks of 64 values of the flattened weight, two codes a byte,
the first in the high half. So its kernels read what is packed here, and both give equal numbers.
"""

from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
BLOCK = 64  # weights with one constant
CONSTANTS = 256  # constants with one scale


class Packed(NamedTuple):
    """codes: uint8 [blocks, 32]. constants: uint8 [blocks] as places in `dynamic_map`, or float32
    [blocks] without double quantisation. scales: float32, one for 256 constants. offset: float32,
    the mean of the constants."""

    codes: Tensor
    constants: Tensor
    scales: Tensor
    offset: Tensor


@cache
def dynamic_map() -> Tensor:
    """The 256 values of the signed dynamic 8-bit type: at exponent i = 0 … 6 the midpoints of 2^i
    equal parts of [0.1, 1], times 10^(i-6), with both signs; 0 and 1."""
    values = [0.0, 1.0]
    for i in range(7):
        for part in range(2**i):
            middle = 0.1 + 0.9 * (part + 0.5) / 2**i
            values += [middle * 10.0 ** (i - 6), -middle * 10.0 ** (i - 6)]
    return torch.tensor(sorted(values), dtype=torch.float32)


@cache
def level_pairs() -> Tensor:
    """The two values of every byte, [256, 2]."""
    levels = torch.tensor(LEVELS)
    return torch.stack([levels.repeat_interleave(16), levels.repeat(16)], dim=1)


def nearest(values: Tensor, levels: Tensor) -> Tensor:
    """Places of the nearest levels, which are sorted."""
    return torch.bucketize(values, (levels[1:] + levels[:-1]) / 2)


def in_blocks(values: Tensor, size: int) -> Tensor:
    """[blocks, size] in float32, the last one filled up with zeros."""
    flat = values.detach().float().flatten()
    return F.pad(flat, (0, -len(flat) % size)).view(-1, size)


def quantized(blocks: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of blocks divided by their largest magnitudes, and these, [blocks]."""
    largest = blocks.abs().amax(1)
    scaled = blocks / largest.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(1)
    return nearest(scaled, levels.to(blocks.device)).to(torch.uint8), largest


def pack(weight: Tensor, double: bool = True) -> Packed:
    """Quantise a weight of any shape. double: quantise the constants of the blocks to 8 bits."""
    if weight.is_meta:
        return packed_shapes(weight, double)
    codes, constants = quantized(in_blocks(weight, BLOCK), torch.tensor(LEVELS))
    halves = codes[:, 0::2] << 4 | codes[:, 1::2]
    if not double:
        return Packed(halves, constants, constants.new_ones(1), constants.new_zeros(()))
    offset = constants.mean()
    places, scales = quantized(in_blocks(constants - offset, CONSTANTS), dynamic_map())
    return Packed(halves, places.flatten()[: len(constants)], scales, offset)


def packed_shapes(weight: Tensor, double: bool) -> Packed:
    """What `pack` would return, on the meta device."""
    blocks = -(-weight.numel() // BLOCK)
    kind = torch.uint8 if double else torch.float32
    with torch.device("meta"):
        constants = torch.empty(blocks, dtype=kind)
        scales = torch.empty(-(-blocks // CONSTANTS) if double else 1)
        codes = torch.empty(blocks, BLOCK // 2, dtype=torch.uint8)
        return Packed(codes, constants, scales, torch.empty([]))


def block_constants(packed: Packed) -> Tensor:
    """The constants of the blocks in float32, [blocks]."""
    if packed.constants.dtype != torch.uint8:
        return packed.constants
    values = F.embedding(packed.constants.int(), on_device(dynamic_map, packed.codes.device, 1))
    blocks = in_blocks(values, CONSTANTS) * packed.scales.unsqueeze(1)
    return blocks.flatten()[: len(packed.constants)] + packed.offset


def unpack(packed: Packed, shape: tuple[int, ...]) -> Tensor:
    """The weight in float32, by a kernel of bitsandbytes if there is one for the device."""
    constants = block_constants(packed)
    if has_kernel(packed.codes.device.type):
        size = [packed.codes.numel() * 2]
        codes = packed.codes.flatten()
        kernel = torch.ops.bitsandbytes.dequantize_4bit
        flat = kernel(codes, constants, BLOCK, "nf4", size, torch.float32).flatten()
    else:
        pairs = on_device(level_pairs, packed.codes.device, 2)
        values = F.embedding(packed.codes.int(), pairs).flatten(1)
        flat = (values * constants.unsqueeze(1)).flatten()
    count = torch.Size(shape).numel()
    return flat[:count].view(shape)


_TABLES: dict[tuple[object, torch.device], Tensor] = {}


def on_device(table: object, device: torch.device, columns: int) -> Tensor:
    """A table with `columns` values a row, copied to a device once."""
    if (table, device) not in _TABLES:
        assert callable(table)
        _TABLES[table, device] = table().view(256, columns).to(device)
    return _TABLES[table, device]


@cache
def has_kernel(device_type: str) -> bool:
    """Whether bitsandbytes is installed and unpacks NF4 on this type of device."""
    if find_spec("bitsandbytes") is None:
        return False
    try:
        import bitsandbytes  # noqa: F401  registers its operators
    except (ImportError, RuntimeError, OSError):
        return False
    keys = {"cpu": "CPU", "cuda": "CUDA", "xpu": "XPU"}
    key = keys.get(device_type)
    name = "bitsandbytes::dequantize_4bit"
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
