"""Rows of a parquet file, batch by batch, with pyarrow (`pip install 'roux[parquet]'`)."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from datamodules.sources.files import check_regular, no_such_file
from foundation.errors import UserError, first_line

BATCH = 4096  # rows that are converted at once


def parquet_rows(
    path: Path, encoding: str = "utf-8", header: bool = True, columns: Collection[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows by the names of the columns, each with its number from 1.

    encoding: of columns of bytes, which some programs write for texts.
    header: false: the columns are called 0, 1, …
    columns: those that are needed; others are not read, unless one of these is missing.

    Raises UserError, one line, for a file that is missing or no parquet.
    """
    check_regular(path)
    if not path.exists():
        raise no_such_file(path)
    file = opened(path)
    stored = file.schema_arrow.names
    repeated = next((name for name in stored if stored.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{path}: column '{repeated}' occurs twice; rename one")
    names = stored if header else [str(i) for i in range(len(stored))]
    chosen = list(range(len(names)))
    if columns is not None and set(columns) <= set(names):
        chosen = [i for i, name in enumerate(names) if name in columns]
    start = 1
    try:
        for batch in file.iter_batches(BATCH, columns=[stored[i] for i in chosen]):
            # by name: pyarrow gives them in the order of the file
            lists = [batch.column(stored[i]).to_pylist() for i in chosen]
            labels = [names[i] for i in chosen]
            for number, cells in enumerate(zip(*lists, strict=True), start):
                values = [plain(cell, encoding) for cell in cells]
                yield number, dict(zip(labels, values, strict=True))
            start += batch.num_rows
    except UserError:
        raise
    except Exception as error:  # pyarrow raises a dozen types for damaged pages
        raise not_parquet(path, error) from None


def opened(path: Path) -> Any:
    """The file with pyarrow. Raises UserError without pyarrow, and for a file of another kind."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(
            f"{path}: a parquet file needs pyarrow; pip install 'roux[parquet]'"
        ) from None
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # as above
        raise not_parquet(path, error) from None


def not_parquet(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: not a parquet file that can be read ({first_line(error)}); write the file again"
    )


def plain(cell: Any, encoding: str) -> Any:
    """A cell as a csv would have it. A column of whole numbers with gaps is one of floats: 3.0 is
    the class 3. Bytes that are no text stay bytes, which are no value to anybody."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, bytes):
        try:
            return cell.decode(encoding)
        except UnicodeError:
            return cell
        except LookupError:
            raise UserError(f"data.source.encoding={encoding}: no such encoding") from None
    return cell
