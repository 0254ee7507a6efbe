"""Arrow IPC streams: rows reach the disk as they are written, and a torn tail costs only the last batch.

A Parquet or Arrow FILE killed before its footer is unreadable; a STREAM gives back every flushed batch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from mspipeline.errors import StorageError, TableError

_START = b"\xff\xff\xff\xff"  # Arrow's continuation marker, the first bytes of every message


class StreamWriter:
    """Rows of one schema appended to a new file; `write` returns once the rows are handed to the system.

    A stream belongs to one writer: a second attempt of a job opens a file of its own.
    One batch costs about 1.6 kB and 0.2 ms with the columns of samples, whatever its rows: write a few at a time.
    Raises TableError where the file is there already, StorageError where it cannot be made.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb")
        except FileExistsError:
            raise TableError(
                f"{path}: there already, and a stream has one writer; name a new telemetry folder"
            ) from None
        except OSError as error:
            raise _storage_error(path, error) from error
        self._path = path
        self._schema = schema
        self._names = frozenset(schema.names)
        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        self._stream = pa.ipc.new_stream(pa.PythonFile(self._file, mode="w"), schema, options=options)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows; a missing key is null, an unknown key a KeyError.

        Raises StorageError where the system refuses. The rows are then kept and go out before the next ones, so the
        stream stays readable when there is space again.
        """
        for row in rows:
            if unknown := row.keys() - self._names:
                raise KeyError(f"{sorted(unknown)} not in the schema")
        try:
            self._stream.write_batch(pa.RecordBatch.from_pylist([dict(row) for row in rows], schema=self._schema))
            self._file.flush()
        except OSError as error:
            raise _storage_error(self._path, error) from error

    def close(self) -> None:
        """End the stream. Closing twice does nothing. Raises StorageError where the system refuses the last bytes."""
        if self._file.closed:
            return
        try:
            self._stream.close()
            self._file.close()
        except OSError as error:
            raise _storage_error(self._path, error) from error

    def __enter__(self) -> StreamWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_stream(path: Path, schema: pa.Schema) -> pa.Table:
    """Every whole batch of a stream, past a torn tail; an empty table where nothing was flushed.

    Raises TableError where the file is missing, is no Arrow stream, or holds another schema.
    """
    batches = []
    try:
        with pa.OSFile(str(path), "rb") as source:
            if not _START.startswith(source.read(len(_START))):
                raise TableError(f"{path}: not an Arrow stream; remove this telemetry folder or run the job again")
            source.seek(0)
            reader = pa.ipc.open_stream(source)
            if not reader.schema.equals(schema):
                raise TableError(f"{path}: holds columns {_columns(reader.schema)}, expected {_columns(schema)}")
            while True:
                batches.append(reader.read_next_batch())
    except StopIteration:
        pass
    except FileNotFoundError:
        raise TableError(f"{path}: no such telemetry stream") from None
    except (IsADirectoryError, PermissionError) as error:
        raise TableError(f"{path}: cannot be read ({error})") from error
    except (pa.ArrowInvalid, OSError):
        pass  # the writer was killed: what was flushed before stands
    if not batches:
        return schema.empty_table()
    # Each batch may carry a dictionary of its own. Casting batch by batch takes ten times as long: 20,000 in 7 s.
    return pa.Table.from_batches(batches).unify_dictionaries().combine_chunks().cast(schema)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _storage_error(path: Path, error: OSError) -> StorageError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StorageError(f"{path}: cannot be written ({reason}); free some space or choose another run folder")
