"""NIfTI-1 and NIfTI-2 in one file (.nii, .nii.gz): the header, checked, the voxels, and the geometry written again.

Nothing is mended in silence. A compressed file is read to its end, so that its checksum is held against its content.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.arrayproxy import ArrayProxy

from mspipeline.errors import VolumeError
from mspipeline.files import write_bytes
from mspipeline.grid import Forms, ScanGrid
from mspipeline.images.format import ImageFormat
from mspipeline.images.nifti_header import Header, parse_header

GZIP = b"\x1f\x8b"
DEFLATE_MAX = 1032
"""Bytes that deflate can make of one (zlib's technical notes): a header that claims more is not that of its file."""
CHUNK_BYTES = 1 << 24


class Nifti(ImageFormat):
    """One image in one file. Written is NIfTI-1, with both forms, codes and units of the scan."""

    name: ClassVar[str] = "nifti"
    endings: ClassVar[tuple[str, ...]] = (".nii", ".nii.gz")

    def read_grid(self, path: Path) -> ScanGrid:
        return _grid(read_header(path))

    def read(self, path: Path) -> tuple[ScanGrid, npt.NDArray[np.float32]]:
        header, data = read_image(path)
        return _grid(header), data

    def write(self, path: Path, data: npt.NDArray[Any], grid: ScanGrid) -> None:
        if grid.forms is not None:
            content = to_bytes(data, grid.forms)
        else:
            image = nib.Nifti1Image(data, grid.affine)
            image.set_qform(grid.affine, grid.qform_code)
            image.set_sform(grid.affine, grid.sform_code)
            image.header.set_xyzt_units("mm")
            content = image.to_bytes()
        write_bytes(path, gzip.compress(content, compresslevel=6, mtime=0) if path.suffix == ".gz" else content)


def _grid(header: Header) -> ScanGrid:
    forms = header.forms
    return ScanGrid(header.shape, header.affine, forms.qform_code, forms.sform_code, forms)


def read_header(path: Path) -> Header:
    """The header of a file. Raises VolumeError where there is none, or a field of it cannot be used."""
    with _stream(path) as stream:
        header = parse_header(path, stream.read(540))
    size = path.stat().st_size
    if not _is_gz(path) and size < header.file_bytes:
        raise _too_short(path, header, f"it has {size}")
    if size * DEFLATE_MAX < header.file_bytes:
        raise _too_short(path, header, f"its {size} compressed ones cannot hold as many")
    return header


def read_image(path: Path) -> tuple[Header, npt.NDArray[np.float32]]:
    """The header, and the voxels (I, J, K) as float32, scaled.

    Raises VolumeError as `read_header`, and where the file is truncated, longer than its header says, or damaged.
    """
    header = read_header(path)
    with _stream(path) as stream:
        parts: list[bytes] = []
        length = 0
        while part := stream.read(CHUNK_BYTES):  # to the end: only there gzip compares the checksum
            parts.append(part)
            length += len(part)
            if length > header.file_bytes:
                raise VolumeError(
                    f"{path}: has more bytes than its header says ({header.file_bytes}: {_claim(header)}), expected as "
                    "many; header and voxels do not belong together, convert or copy the image again"
                )
    if length < header.file_bytes:
        raise _too_short(path, header, f"it has {length}")
    content = io.BytesIO(b"".join(parts))
    proxy = ArrayProxy(content, (header.shape, header.dtype, header.offset, header.slope, header.intercept))
    with np.errstate(over="ignore", invalid="ignore"):  # whoever reads looks for infinite voxels
        return header, np.asarray(proxy, dtype=np.float32)


def to_bytes(data: npt.NDArray[Any], forms: Forms) -> bytes:
    """An uncompressed NIfTI-1 file. data: (I, J, K) uint8 or float32. Equal input gives equal bytes."""
    header = nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header["pixdim"][:4] = forms.pixdim
    for names, values in (
        (("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"), forms.qform),
        (("qform_code", "sform_code", "xyzt_units"), (forms.qform_code, forms.sform_code, forms.xyzt_units)),
    ):
        for name, value in zip(names, values, strict=True):
            header[name] = value
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        header[name] = forms.sform[4 * row : 4 * row + 4]
    # Without an affine of its own the image leaves both forms as the header has them.
    content: bytes = nib.Nifti1Image(data, None, header).to_bytes()
    return content


@contextmanager
def _stream(path: Path) -> Iterator[IO[bytes]]:
    """The uncompressed content. Raises VolumeError for whatever goes wrong while it is read."""
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == GZIP
            raw.seek(0)
            if _is_gz(path) and not compressed and path.stat().st_size >= 348:
                raise VolumeError(
                    f"{path}: not compressed with gzip, though its name ends in .gz; rename it to .nii if it is an "
                    "image, or compress it"
                )
            if compressed and not _is_gz(path):
                raise VolumeError(f"{path}: compressed with gzip, though its name says otherwise; rename it to .nii.gz")
            if compressed:
                with gzip.open(raw) as stream:
                    yield stream  # type: ignore[misc]  # GzipFile reads as IO[bytes] does
            else:
                yield raw
    except FileNotFoundError:
        raise VolumeError(f"{path}: no such image") from None
    except EOFError as error:
        raise VolumeError(f"{path}: truncated: its compressed data end too early; copy or convert it again") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(f"{path}: {_damage(error)} (`gzip -t` shows it); copy or convert it again") from error
    except OSError as error:
        raise VolumeError(
            f"{path}: cannot be read ({error.strerror or error}); copy it again, or ask for access"
        ) from error


def _is_gz(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _damage(error: Exception) -> str:
    reason = str(error)
    if reason.startswith("CRC"):
        return "damaged: the checksum (CRC) of its content is wrong"
    if reason.startswith("Not a gzipped"):
        return "damaged: something that is not gzip follows its compressed data"
    return f"damaged: its compressed data cannot be unpacked ({reason})"


def _claim(header: Header) -> str:
    return f"{'x'.join(map(str, header.shape))} voxels of {header.dtype.name} from byte {header.offset} on"


def _too_short(path: Path, header: Header, found: str) -> VolumeError:
    return VolumeError(
        f"{path}: truncated or not an image: its header says {header.file_bytes} bytes ({_claim(header)}), but "
        f"{found}; copy or convert it again"
    )
