"""One synthetic head with white-matter lesions, and its T1w, T2w and FLAIR scans.

Everything is stated in millimetres around the centre of the grid, so a finer grid shows the same head. The head is an
ellipsoid of nested layers: scalp, skull, fluid, a cortex folded along the zero-sets of smooth noise, white matter, with
ventricles and deep grey nuclei inside. It has no cerebellum, brain stem or face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

Array = npt.NDArray[np.floating[Any]]
"""float32 where it has the size of a grid."""
Axes = tuple[Array, Array, Array]
Random = np.random.Generator

SIGNAL = {
    #         scalp skull  csf grey white lesion
    "T1w": (850.0, 130.0, 180.0, 480.0, 700.0, 520.0),
    "T2w": (480.0, 90.0, 1100.0, 620.0, 430.0, 800.0),
    "FLAIR": (500.0, 80.0, 110.0, 530.0, 420.0, 800.0),
}
"""Signal of each tissue before the gain of the case; air has none."""

NOISE_SIGMA = 20.0
"""Standard deviation of each of the two Gaussian channels of the Rician noise, in units of the stored image."""

BIAS_AMPLITUDE = 0.2
"""The receiver's field multiplies the signal by 1 - 0.2 to 1 + 0.2."""

LESION_MEDIAN_ML = 0.25
LESION_LOG_SIGMA = 1.0
LESION_LARGEST_ML = 10.0
LESIONS_PER_CASE = (14, 36)

SEMI_AXES_MM = (72.0, 90.0, 70.0)
"""Of the average head: to the right, to the front, up."""

POINT_SPREAD_VOX = 0.45
LATTICE_REACH_MM = 140.0
SURVEY_AXES: Axes = (np.arange(-94, 95, 4.0), np.arange(-94, 95, 4.0), np.arange(-74, 75, 4.0))
"""The grid on which lesions find their places, whatever the grid of the scans."""


@dataclass(frozen=True)
class Tissues:
    """Fractions of each voxel, (X, Y, Z) in [0, 1]; what they leave is air.

    white: with the lesions in it. brain: (X, Y, Z) bool, everything within the cortex's outer border.
    ventricle_mm: depth inside the ventricles' walls, negative outside; a guide, not a distance.
    """

    scalp: Array
    skull: Array
    csf: Array
    grey: Array
    white: Array
    brain: npt.NDArray[np.bool_]
    ventricle_mm: Array


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid before it is made irregular. centre_mm, radii_mm: (3,); rotation: (3, 3), rows are its axes."""

    centre_mm: npt.NDArray[np.float64]
    radii_mm: npt.NDArray[np.float64]
    rotation: npt.NDArray[np.float64]


def grid_axes(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Axes:
    """Voxel centres along each canonical axis in mm, the middle of the grid at 0."""
    x, y, z = ((np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing_mm, strict=True))
    return x, y, z


def smooth_noise(random: Random, axes: Axes, step_mm: float) -> Array:
    """Gaussian noise of about unit variance that varies over `step_mm`: a cubic B-spline of white noise.

    The spline's knots lie in space, not on the grid: another grid samples the same field.
    """
    knots = np.arange(-LATTICE_REACH_MM, LATTICE_REACH_MM + step_mm, step_mm)
    field = random.standard_normal((knots.size,) * 3).astype(np.float32)
    for axis in reversed(axes):  # the last axis first, and each result moves to the front: (I,J,K) -> (X,Y,Z)
        distance = np.abs(axis[:, None] - knots) / step_mm
        inner, outer = 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6
        basis = np.where(distance < 1, inner, outer).astype(np.float32)
        field = np.tensordot(basis, field, axes=(1, 2))
    return np.asarray(field / np.float32((151 / 315) ** 1.5), np.float32)  # 151/315: integral of the squared B-spline


def make_tissues(seed: np.random.SeedSequence, axes: Axes) -> Tissues:
    """The healthy head of a seed, sampled on a grid. Size, pose, folds and ventricles vary with the seed."""
    random = np.random.default_rng(seed)
    size = random.uniform(0.94, 1.0) * random.uniform(0.97, 1.03, 3)
    pose = Rotation.from_euler("xyz", random.uniform(-6, 6, 3), degrees=True).as_matrix()
    shift = random.uniform(-1.5, 1.5, 3)
    atrophy = random.uniform(0.9, 1.5)
    x, y, z = _turned(axes, shift, pose / size[:, None])  # in mm of the average head
    voxel_mm = float(np.mean([abs(axis[1] - axis[0]) for axis in axes]))

    def inside(depth_mm: Array) -> Array:
        """Share of a voxel on the inner side of a border at depth 0."""
        return np.asarray(np.clip(0.5 + depth_mm / np.float32(voxel_mm), 0, 1))

    a, b, c = SEMI_AXES_MM
    narrow = 1 - 0.12 * y / b  # the forehead is narrower than the back of the head
    reach = np.sqrt((x / (a * narrow)) ** 2 + (y / b) ** 2 + (z / c) ** 2) + np.float32(1e-6)
    depth = (1 / reach - 1) * np.sqrt(x**2 + y**2 + z**2)  # along the ray from the centre
    depth -= 1.2 * (1 + np.tanh(smooth_noise(random, axes, 45.0)))

    fold = smooth_noise(random, axes, 9.0)
    sulcus = np.maximum(16 * np.exp(-((fold / 0.2) ** 2)), 32 * np.exp(-((x / 1.8) ** 2)))  # fissure at x = 0
    bank = np.maximum(16 * np.exp(-((fold / 0.65) ** 2)), 32 * np.exp(-((x / 5) ** 2)))
    head, under_scalp, under_skull = inside(depth), inside(depth - 5.5), inside(depth - 11)
    under_csf = inside(depth - 13 - sulcus)
    white = inside(depth - 17 - bank)

    side = np.abs(x)
    horn = 8 + np.where(y < 0, np.float32(9), np.float32(3)) * (y / 32) ** 2
    lateral = _ellipsoid((side - horn) / (5 * atrophy), (y + 2) / 34, (z - 9 + 7 * (y / 34) ** 2) / (8 * atrophy))
    third = _ellipsoid(x / (1.6 * atrophy), (y - 2) / 13, (z + 7) / 9)
    ventricle_mm = np.maximum(lateral * np.float32(5 * atrophy), third * np.float32(1.6 * atrophy))
    ventricle = inside(ventricle_mm)
    thalamus = 8 * _ellipsoid((side - 11) / 8, (y + 8) / 13, (z + 3) / 8)
    putamen = 5 * _ellipsoid((side - 26) / 5, (y - 4) / 17, (z + 1) / 10)
    nuclei = inside(np.maximum(thalamus, putamen))

    grey = (under_csf - white + nuclei * white) * (1 - ventricle)
    return Tissues(
        scalp=head - under_scalp,
        skull=under_scalp - under_skull,
        csf=under_skull - under_csf + ventricle * under_csf,
        grey=grey,
        white=white * (1 - nuclei) * (1 - ventricle),
        brain=depth >= 13,
        ventricle_mm=ventricle_mm,
    )


def lesion_volumes_ml(random: Random, number: int) -> npt.NDArray[np.float64]:
    """(number,) volumes, lognormal: median 0.25 ml, sigma of the logarithm 1, at most 10 ml."""
    volumes = LESION_MEDIAN_ML * np.exp(LESION_LOG_SIGMA * random.standard_normal(number))
    return np.minimum(volumes, LESION_LARGEST_ML)


def place_lesions(random: Random, survey: Tissues) -> list[Lesion]:
    """14 to 36 lesions in the white matter of a head on SURVEY_AXES, most of them near the ventricles' walls."""
    near = np.exp(np.minimum(survey.ventricle_mm, 0) / 5) + 0.03
    weight = np.where(survey.white > 0.95, near, 0).ravel().astype(np.float64)
    volumes = lesion_volumes_ml(random, int(random.integers(*LESIONS_PER_CASE, endpoint=True)))
    places = random.choice(weight.size, volumes.size, replace=False, p=weight / weight.sum())
    lesions = []
    for place, volume_ml in zip(places, volumes, strict=True):
        index = np.unravel_index(place, survey.white.shape)
        centre = np.array([axis[i] for axis, i in zip(SURVEY_AXES, index, strict=True)]) + random.uniform(-2, 2, 3)
        ratios = random.uniform(0.6, 1.5, 3)
        radius = (volume_ml * 1000 * 3 / (4 * math.pi)) ** (1 / 3)
        radii = radius * ratios / np.cbrt(ratios.prod())
        lesions.append(Lesion(centre, radii, Rotation.from_quat(random.standard_normal(4)).as_matrix()))
    return lesions


def lesion_fraction(lesions: list[Lesion], white: Array, rough: Array, axes: Axes) -> Array:
    """(X, Y, Z) share of each voxel that is lesion: ellipsoids whose border `rough` moves, within the white matter."""
    fraction = np.zeros_like(white)
    voxel_mm = float(np.mean([abs(axis[1] - axis[0]) for axis in axes]))
    for lesion in lesions:
        reach = 1.8 * float(lesion.radii_mm.max()) + voxel_mm
        low_high = [
            np.searchsorted(axis, [c - reach, c + reach]) for axis, c in zip(axes, lesion.centre_mm, strict=True)
        ]
        box = tuple(slice(low, high) for low, high in low_high)
        near_axes = (axes[0][box[0]], axes[1][box[1]], axes[2][box[2]])
        u, v, w = _turned(near_axes, lesion.centre_mm, lesion.rotation / lesion.radii_mm[:, None])
        radius = np.float32(np.cbrt(lesion.radii_mm.prod()))
        depth_mm = radius * (_ellipsoid(u, v, w) + 0.3 * np.tanh(rough[box]))
        np.maximum(fraction[box], np.clip(0.5 + depth_mm / np.float32(voxel_mm), 0, 1), out=fraction[box])
    return fraction * white


def make_head(
    seed: int, number: int, axes: Axes
) -> tuple[dict[str, npt.NDArray[np.int16]], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Scans, lesion mask and brain mask of case `number` of a seed; equal arguments give equal arrays.

    axes: canonical voxel centres in mm, see `grid_axes`. All arrays are (X, Y, Z). A voxel is in the lesion mask where
    at least half of it is lesion. The scans, by modality, carry a gain and a bias field of their own and Rician noise:
    the magnitude of a complex signal with NOISE_SIGMA in both channels (Gudbjartsson & Patz 1995), so that air has
    mean sigma sqrt(pi / 2).
    """
    of_tissues, of_lesions, of_scanner = np.random.SeedSequence([seed, number]).spawn(3)
    tissues = make_tissues(of_tissues, axes)
    random = np.random.default_rng(of_lesions)
    lesions = place_lesions(random, make_tissues(of_tissues, SURVEY_AXES))
    fraction = lesion_fraction(lesions, tissues.white, smooth_noise(random, axes, 6.0), axes)
    random = np.random.default_rng(of_scanner)
    strength = 1 + 0.2 * np.tanh(smooth_noise(random, axes, 14.0))
    settings = {name: (random.uniform(0.8, 1.25), random.uniform(0.97, 1.03, 6)) for name in SIGNAL}
    fields = {name: 1 + BIAS_AMPLITUDE * np.tanh(smooth_noise(random, axes, 80.0)) for name in SIGNAL}
    scans = {}
    for name, (gain, jitter) in settings.items():
        scalp, skull, csf, grey, white, lesion = (gain * jitter * SIGNAL[name]).astype(np.float32)
        signal = scalp * tissues.scalp + skull * tissues.skull + csf * tissues.csf + grey * tissues.grey
        signal += white * tissues.white + (lesion - white) * strength * fraction
        signal = ndimage.gaussian_filter(signal, POINT_SPREAD_VOX, mode="nearest") * fields[name]
        real, imaginary = (
            NOISE_SIGMA * random.standard_normal(signal.shape, dtype=np.float32) for _ in ("real", "imaginary")
        )
        scans[name] = np.rint(np.hypot(signal + real, imaginary)).astype(np.int16)
    mask = ndimage.gaussian_filter(fraction, POINT_SPREAD_VOX, mode="nearest") >= 0.5
    return scans, mask, tissues.brain


def _ellipsoid(u: Array, v: Array, w: Array) -> Array:
    """1 at the centre, 0 on the surface of the unit sphere, negative outside."""
    return np.asarray(1 - np.sqrt(u**2 + v**2 + w**2), np.float32)


def _turned(axes: Axes, centre: npt.NDArray[np.float64], matrix: npt.NDArray[np.float64]) -> tuple[Array, Array, Array]:
    """Coordinates matrix @ (point - centre) of every point of a grid, each (X, Y, Z) float32."""
    x, y, z = (axis - c for axis, c in zip(axes, centre, strict=True))
    i, j, k = ((row[0] * x[:, None, None] + row[1] * y[:, None] + row[2] * z).astype(np.float32) for row in matrix)
    return i, j, k
