"""What an image's size must be a multiple of, for networks that halve and double it."""

from __future__ import annotations

from mspipeline.errors import ShapeError


def check_multiple(name: str, size: tuple[int, ...], divisor: int) -> None:
    """Raise ShapeError, with a size that would do, where `divisor` does not divide every axis."""
    if all(extent % divisor == 0 and extent >= divisor for extent in size):
        return
    fitting = (max(divisor, round(extent / divisor) * divisor) for extent in size)
    raise ShapeError(
        f"{name}: image size {'x'.join(map(str, size))} is not a multiple of {divisor} along every axis, as its "
        f"halvings need; prepare the shards at {'x'.join(map(str, fitting))}, for instance"
    )
