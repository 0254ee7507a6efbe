"""Arrow IPC streams: rows reach the disk as they are written, and a torn tail costs only the last batch.

A Parquet or Arrow FILE killed before its footer is unreadable; a STREAM gives back every flushed batch.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from mspipeline.errors import StorageError, TableError

WAITING_BYTES = 16_000_000
"""The most that a writer keeps of what the system refused: some 10,000 batches of samples."""

_START = b"\xff\xff\xff\xff"  # Arrow's continuation marker, the first bytes of every message
_END = _START + bytes(4)  # a message of no length, which `close` writes


class StreamWriter:
    """Rows of one schema appended to a new file; `write` returns once the rows are handed to the system.

    A stream belongs to one writer: a second attempt of a job opens a file of its own.
    One batch costs about 1.6 kB and 0.2 ms with the columns of samples, whatever its rows: write a few at a time.
    Raises TableError where the file is there already, StorageError where it cannot be made.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb", buffering=0)
        except FileExistsError:
            raise TableError(
                f"{path}: there already, and a stream has one writer; name a new telemetry folder"
            ) from None
        except OSError as error:
            raise _storage_error(path, error) from error
        self._path = path
        self._schema = schema
        self._names = frozenset(schema.names)
        self._outgoing = _Outgoing()
        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        self._stream = pa.ipc.new_stream(pa.PythonFile(self._outgoing, mode="w"), schema, options=options)

    @property
    def overfull(self) -> bool:
        """Whether more than `WAITING_BYTES` wait for a system that refuses them: time to give up."""
        return len(self._outgoing.waiting) > WAITING_BYTES

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows; a missing key is null, an unknown key a KeyError.

        Raises StorageError where the system refuses. The rows are then kept and go out before the next ones, from the
        very byte at which the system stopped, so the stream stays readable when there is space again. Raises TableError
        where a value does not fit its column: then none of the rows is kept.
        """
        for row in rows:
            if unknown := row.keys() - self._names:
                raise KeyError(f"{sorted(unknown)} not in the schema")
        try:
            batch = pa.RecordBatch.from_pylist([dict(row) for row in rows], schema=self._schema)
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            raise TableError(f"{self._path}: a value does not fit its column ({error})") from error
        self._stream.write_batch(batch)
        self._send()

    def close(self) -> None:
        """End the stream. Closing twice does nothing. Raises StorageError where the system refuses the last bytes."""
        if self._file.closed:
            return
        try:
            self._stream.close()
            self._send()
        finally:
            try:
                self._file.close()
            except OSError as error:
                raise _storage_error(self._path, error) from error

    def _send(self) -> None:
        waiting = self._outgoing.waiting
        try:
            while waiting:
                sent = self._file.write(waiting)
                del waiting[:sent]
        except OSError as error:
            raise _storage_error(self._path, error) from error

    def __enter__(self) -> StreamWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Outgoing(io.RawIOBase):
    """Where Arrow writes its messages: bytes that wait to be handed to the system, in order."""

    def __init__(self) -> None:
        self.waiting = bytearray()
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.waiting += data
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written


def ended(path: Path) -> bool:
    """Whether a stream was closed, so that none of its rows is missing. False where it cannot be read."""
    try:
        with path.open("rb") as source:
            source.seek(-len(_END), os.SEEK_END)
            return source.read() == _END
    except OSError:
        return False


def read_stream(path: Path, schema: pa.Schema) -> pa.Table:
    """Every whole batch of a stream, past a torn tail; an empty table where nothing was flushed.

    Raises TableError where the file is missing, cannot be read, is no Arrow stream, or holds another schema or values
    that no column can have.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TableError(f"{path}: no such telemetry stream") from None
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not _START.startswith(data[: len(_START)]):
        raise TableError(f"{path}: not an Arrow stream; remove this telemetry folder or run the job again")
    batches = []
    try:
        reader = pa.ipc.open_stream(pa.py_buffer(data))
        if not reader.schema.equals(schema):
            raise TableError(f"{path}: holds columns {_columns(reader.schema)}, expected {_columns(schema)}")
        while True:
            batches.append(reader.read_next_batch())
    except StopIteration:
        pass
    except (pa.ArrowException, OSError, ValueError):
        pass  # the writer was killed: what was flushed before stands
    if not batches:
        return schema.empty_table()
    # Each batch may carry a dictionary of its own. Casting batch by batch takes ten times as long: 20,000 in 7 s.
    table = pa.Table.from_batches(batches)
    try:
        table.validate(full=True)  # a damaged disk: indices outside a dictionary would be read from anywhere
        return table.unify_dictionaries().combine_chunks().cast(schema)
    except pa.ArrowException as error:
        raise TableError(f"{path}: holds damaged values ({error}); remove this telemetry folder") from error


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _storage_error(path: Path, error: OSError) -> StorageError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StorageError(f"{path}: cannot be written ({reason}); free some space or choose another run folder")
