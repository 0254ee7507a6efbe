import numpy as np
import pytest

from mspipeline.errors import ConfigError, ShapeError
from mspipeline.models.nnunet_plan import Fingerprint, NnunetPlan, cropped_shape, plan, plan_at, target_spacing
from mspipeline.models.nnunet_topology import Size, Spacing, topology

CASES = 30


def dataset(shape: Size, spacing_mm: Spacing, *, cases: int = CASES, cropped: float = 1.0) -> Fingerprint:
    return Fingerprint((shape,) * cases, (spacing_mm,) * cases, (cropped,) * cases, classes=2)


def fullres(shape: Size, spacing_mm: Spacing) -> NnunetPlan:
    return plan(dataset(shape, spacing_mm)).fullres


@pytest.mark.parametrize("shape", [(182, 218, 182), (140, 170, 140), (146, 182, 153)])
def test_brains_at_1_mm(shape: Size) -> None:
    plans = plan(dataset(shape, (1.0, 1.0, 1.0)))
    assert plans.fullres.patch == (128, 128, 128)
    assert plans.fullres.topology.pools == (5, 5, 5)
    assert plans.fullres.batch_size == 2
    assert plans.fullres.topology.feature_map_values(2) == 450_699_264
    assert plans.fullres.topology.features == (32, 64, 128, 256, 320, 320)
    assert (plans.lowres, plans.fullres.batch_dice) == (None, False)


def test_slices_of_3_mm() -> None:
    plans = plan(dataset((48, 400, 320), (3.0, 0.5, 0.5)))
    net = plans.fullres.topology
    assert (net.patch, net.pools, plans.fullres.batch_size) == ((32, 256, 224), (3, 5, 5), 2)
    assert net.kernels == ((1, 3, 3),) * 2 + ((3, 3, 3),) * 4
    assert net.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert plans.lowres is None


def test_large_images_get_a_network_of_low_resolution_too() -> None:
    # A scan of 300x256x224 at .5x.74x.74 mm: patch 160x128x112, pools 5,5,4; the plan has the coarsest axis first.
    plans = plan(dataset((300, 256, 224), (0.5, 0.74, 0.74)))
    assert plans.axes == (1, 0, 2)
    assert (plans.fullres.patch, plans.fullres.topology.pools) == ((128, 160, 112), (5, 5, 4))
    assert plans.fullres.batch_size == 2
    assert plans.fullres.batch_dice
    assert plans.lowres is not None
    assert plans.lowres.patch_share >= 0.25
    # 8 steps of 3 % along every axis: 1.03^24 = 2.03 times fewer voxels
    np.testing.assert_allclose(plans.lowres.spacing_mm, np.array([0.74, 0.5, 0.74]) * 1.03**8)
    assert not plans.lowres.batch_dice


def test_low_resolution_is_sought_and_dropped_where_it_would_save_less_than_half() -> None:
    # 128^3 is .185 of 208x260x210; a quarter is reached after 4 steps, at 1.03^12 = 1.43 times fewer voxels.
    plans = plan(dataset((208, 260, 210), (0.7, 0.7, 0.7)))
    assert (plans.fullres.patch, plans.fullres.topology.pools, plans.fullres.batch_size) == ((128,) * 3, (5, 5, 5), 2)
    assert plans.fullres.patch_share == pytest.approx(0.1847, abs=1e-4)
    assert plans.lowres is None


def test_finer_axes_grow_first_towards_low_resolution() -> None:
    # .4 mm is finer than half of 2 mm: only those axes grow, 31 steps of 3 %, until a patch sees enough.
    plans = plan(dataset((120, 700, 700), (2.0, 0.4, 0.4)))
    assert plans.lowres is not None
    assert plans.lowres.spacing_mm == pytest.approx((2.0, 0.4 * 1.03**31, 0.4 * 1.03**31))


def test_a_small_image_is_its_own_patch_and_the_batch_grows() -> None:
    # Five stages of 64^3 x 32 to 4^3 x 320: 2 * 11,161,600 + 3 * 11,141,120 + 2 * 64^3; 2 * 560e6 over it is 19.9.
    small = plan(dataset((64, 64, 64), (1.0, 1.0, 1.0), cases=1000)).fullres
    assert small.patch == (64, 64, 64)
    assert small.topology.feature_map_values(2) == 56_270_848
    assert small.batch_size == 20


def test_a_batch_holds_at_most_a_twentieth_of_the_dataset_but_two_patches() -> None:
    sizes = [plan(dataset((64, 64, 64), (1.0, 1.0, 1.0), cases=cases)).fullres.batch_size for cases in (10, 100, 1000)]
    assert sizes == [2, 5, 20]


def test_more_memory_gives_a_larger_patch() -> None:
    larger = plan_at((1.0, 1.0, 1.0), (182.0, 218.0, 182.0), 2, 30 * 182 * 218 * 182, memory_gb=24)
    assert np.prod(larger.patch) > 128**3
    assert larger.topology.feature_map_values(2) <= 560e6 * 3


def test_a_budget_that_no_patch_fits_is_refused_with_what_would_do() -> None:
    with pytest.raises(ConfigError, match=r"even a patch of \d+x\d+x\d+ voxels needs .* GB, and memory_gb is 1e-05"):
        plan_at((1.0, 1.0, 1.0), (182.0, 218.0, 182.0), 2, 1e9, memory_gb=1e-5)


def test_the_target_spacing_is_the_median() -> None:
    spacings = ((1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (1.0, 1.0, 3.0))
    assert target_spacing(Fingerprint(((100, 100, 100),) * 3, spacings, (1.0,) * 3, 2)) == (1.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("slices_mm", "expected"),
    [
        ((2.0, 4.0, 5.0, 6.0, 7.0), 2.8),  # 10th percentile of five: 2 + .4 * 2
        ((0.5, 0.5, 5.0, 6.0, 7.0), 1.0 + 1e-5),  # the percentile is finer than the slices' own voxels
    ],
)
def test_a_much_coarser_and_shorter_axis_takes_the_tenth_percentile(
    slices_mm: tuple[float, ...], expected: float
) -> None:
    spacings = tuple((each, 1.0, 1.0) for each in slices_mm)
    found = target_spacing(Fingerprint(((20, 200, 200),) * 5, spacings, (1.0,) * 5, 2))
    assert found == pytest.approx((expected, 1.0, 1.0), abs=1e-9)


@pytest.mark.parametrize(("share", "masked"), [(0.74, True), (0.75, False)])
def test_scores_are_taken_inside_the_mask_where_cropping_removed_over_a_quarter(share: float, masked: bool) -> None:
    assert plan(dataset((140, 170, 140), (1.0, 1.0, 1.0), cropped=share)).masked_normalisation is masked


def test_a_fingerprint_tells_of_the_same_cases() -> None:
    with pytest.raises(ShapeError, match="2 shapes, 1 spacings and 2 cropped shares"):
        Fingerprint(((8, 8, 8),) * 2, ((1.0, 1.0, 1.0),), (1.0,) * 2, 2)


def test_a_spacing_of_zero_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"case 2 has shape .* must be positive"):
        Fingerprint(((8, 8, 8),) * 2, ((1.0, 1.0, 1.0), (1.0, 0.0, 1.0)), (1.0,) * 2, 2)


def test_a_case_is_cropped_to_what_is_not_zero_in_any_channel() -> None:
    first, second = np.zeros((2, 10, 12, 14), np.float32)
    first[2, 3, 4] = 1
    second[5, 3, 9] = -1
    assert cropped_shape([first, second]) == (4, 1, 6)
    with pytest.raises(ShapeError, match="every voxel of the case is zero"):
        cropped_shape([first * 0])


def test_a_lone_axis_is_halved_only_from_12_voxels_on() -> None:
    assert [topology((1.0, 1.0, 1.0), (size, 4, 4)).pools[0] for size in (11, 12, 16, 24)] == [0, 1, 1, 2]


def test_a_patch_is_padded_to_what_its_poolings_divide() -> None:
    net = topology((1.0, 1.0, 1.0), (121, 128, 100))
    assert (net.pools, net.patch) == ((5, 5, 4), (128, 128, 112))
