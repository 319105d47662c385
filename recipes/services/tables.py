"""Tables with a row for each sample, which may be too large for the device."""

import math
from typing import Any

import torch
from torch import Tensor, nn

HOST_BYTES = 2**29  # of a float32 table; a larger one is on the host


class SampleTables(nn.Module):
    """Base of modules that have tables with a row for each sample. They are part of checkpoints.

    A table of up to `HOST_BYTES` is a buffer. A larger one of floating numbers stays on the host in
    half precision, wherever the module is: a quarter of a million samples with 1000 classes would
    take a gigabyte of the device. Numbers are then rounded to 11 bits, and every read and write
    waits for the device: it copies the index and two bytes for each number of the batch, 0.5 MB for
    256 samples with 1000 classes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._on_host: dict[str, Tensor] = {}

    def add_table(
        self,
        name: str,
        shape: tuple[int, ...],
        fill: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """shape: (samples, …)."""
        large = math.prod(shape) * dtype.itemsize > HOST_BYTES
        if dtype.is_floating_point and large:
            self._on_host[name] = torch.full(shape, fill, dtype=torch.float16)
        else:
            self.register_buffer(name, torch.full(shape, fill, dtype=dtype))

    def __getattr__(self, name: str) -> Any:
        tables = self.__dict__.get("_on_host", {})
        return tables[name] if name in tables else super().__getattr__(name)

    def row_type(self, name: str) -> torch.dtype:
        """The type of the rows that are read and written."""
        return torch.float32 if name in self._on_host else self.get_buffer(name).dtype

    def table_rows(self, name: str, index: Tensor) -> Tensor:
        """The rows `index` [N] of a table, on the device of `index`."""
        if name not in self._on_host:
            return self.get_buffer(name)[index]
        rows = self._on_host[name][index.cpu()]
        return rows.to(index.device).float()

    def put_rows(self, name: str, index: Tensor, rows: Tensor) -> None:
        """Write rows [N, …]; of equal indices all have the same row."""
        if name not in self._on_host:
            self.get_buffer(name)[index] = rows
        else:
            # rounded before they are copied: half the bytes
            self._on_host[name][index.cpu()] = rows.half().cpu()

    # -- checkpoints: the names are those of buffers -----------------------------------------------
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, table in self._on_host.items():
            destination[prefix + name] = table

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # taken out for the time being: torch knows nothing of them
        found = {name: state_dict.get(prefix + name) for name in self._on_host}
        others = {
            key: value for key, value in state_dict.items() if key[len(prefix) :] not in found
        }
        super()._load_from_state_dict(
            others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for name, value in found.items():
            table = self._on_host[name]
            if value is None:
                missing_keys.append(prefix + name)
            elif value.shape != table.shape:
                sizes = f"{list(value.shape)} instead of {list(table.shape)}"
                error_msgs.append(f"size mismatch for {prefix}{name}: {sizes}")
            else:
                table.copy_(value)
