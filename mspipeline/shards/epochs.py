"""Epochs: a stream of batches read ahead by one thread, whatever the batches are of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Generic, Protocol, Self, TypeVar

from mspipeline.errors import ShardError
from mspipeline.shards.prefetch import Prefetch

BatchType = TypeVar("BatchType")


class ImagesEntry(Protocol):
    """A case with images to read. image_shape: of one, channels last."""

    @property
    def case(self) -> str: ...
    @property
    def image_shape(self) -> tuple[int, ...]: ...


class EpochReader(ABC, Generic[BatchType]):
    """Batches of some cases, epoch by epoch. The order of an epoch depends on the seed and the epoch's number alone.

    shards: folder of the manifest. entries: of the subset to read; none gives epochs without steps.
    shuffle: False keeps the order of entries, and that within them. prefetch_batches: read ahead of the consumer, at
    least 1. Raises ShardError where the cases' images differ in shape.
    """

    what: ClassVar[str] = "images"
    """What a batch is of, for messages."""

    def __init__(
        self,
        shards: Path,
        entries: Sequence[ImagesEntry],
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        prefetch_batches: int,
    ) -> None:
        if batch_size < 1 or prefetch_batches < 1 or seed < 0:
            raise ValueError(f"batch_size {batch_size}, prefetch_batches {prefetch_batches}, seed {seed}")
        for entry in entries:
            if entry.image_shape != entries[0].image_shape:
                raise ShardError(
                    f"{shards}: {self.what} of {entry.case} are {entry.image_shape}, those of {entries[0].case} "
                    f"{entries[0].image_shape}; prepare all cases by one recipe into a new folder"
                )
        self.case_ids = [entry.case for entry in entries]
        self._shards = shards
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._prefetch_batches = prefetch_batches
        self._running: set[Prefetch[BatchType]] = set()
        self._closed = False

    @property
    @abstractmethod
    def images(self) -> int:
        """Images of an epoch: slices or patches."""

    @abstractmethod
    def _batches(self, number: int, first_step: int) -> Generator[BatchType, None, None]:
        """The batches of an epoch from `first_step` on, made by the reading thread."""

    @property
    def steps(self) -> int:
        """Batches of an epoch; the last may be smaller."""
        return -(-self.images // self._batch_size)

    def epoch(self, number: int, *, first_step: int = 0) -> Generator[BatchType, None, None]:
        """Every image once, from batch `first_step` on: a resumed epoch goes on with the batches it had left.

        The reading thread runs from the first batch asked for until the last one, an error, or the end of the
        generator: its `close`, its disposal, or the reader's `close`.
        Raises ShardError where there is no such step, and, while iterating, where a shard cannot be read.
        """
        if self._closed:
            raise ShardError(f"{self._shards}: the reader is closed; open a new one")
        if not 0 <= first_step <= self.steps:
            raise ShardError(
                f"{self._shards}: epoch {number} has {self.steps} steps of {self._batch_size} images and cannot go on "
                f"at step {first_step}; resume with the batch size and cases it began with"
            )
        return self._stream(number, first_step)

    def close(self) -> None:
        """Stop every running epoch. Closing twice does nothing."""
        self._closed = True
        for prefetch in list(self._running):
            prefetch.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stream(self, number: int, first_step: int) -> Generator[BatchType, None, None]:
        prefetch = Prefetch(self._batches(number, first_step), self._prefetch_batches, name="shard-reader")
        self._running.add(prefetch)
        try:
            while (batch := prefetch.next()) is not None:
                yield batch
        finally:
            prefetch.stop()
            self._running.discard(prefetch)
