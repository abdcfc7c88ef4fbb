"""The affine stage: known maps of the shipped anatomy are found again, and registration starts from them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import PairFiles, Phantom
from scipy.spatial.transform import Rotation
from tiny import write_tiny_model

import deformgan
import deformgan.align.search as search_module
import deformgan.align.start as start_module
from deformgan.align.options import TransformKind
from deformgan.align.parts import Region, rated
from deformgan.align.placement import Subsampled, adult_sized, subsample, subsampled_pair
from deformgan.align.search import search
from deformgan.align.similarity import make_level, nmi_score
from deformgan.align.start import find_start
from deformgan.errors import InputError, UsageError
from deformgan.io.image import Image
from deformgan.models.load import Model, load_model
from deformgan.preprocess.scan import Scan
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats.itk import write_affine
from deformgan.transforms.transform import Transform
from deformgan.workshop.simulation.anatomy import load_anatomy

pytestmark = pytest.mark.searches


@pytest.fixture(scope="module")
def pair() -> tuple[Image, Image]:
    """The shipped anatomy at 3 mm in two contrasts that no straight line joins."""
    anatomy = load_anatomy()
    labels = anatomy.data[::3, ::3, ::3].astype(int)
    rng = np.random.default_rng(3)
    grid = Grid(labels.shape, anatomy.grid.affine @ np.diag([3, 3, 3, 1.0]))

    def contrast(seed: int) -> Image:
        table = np.random.default_rng(seed).uniform(0.2, 1, labels.max() + 1)
        return Image(((table[labels] + rng.normal(0, 0.02, labels.shape)) * (labels > 0)).astype(np.float32), grid)

    return contrast(1), contrast(2)


def rotated(
    image: Image, rotation: Rotation, scale: float, shift: tuple[float, float, float]
) -> tuple[Image, np.ndarray]:
    """The image with another header, and the map from its old place to the new one."""
    centre = np.eye(4)
    centre[:3, 3] = image.grid.centre_mm
    move = np.eye(4)
    move[:3, :3] = scale * rotation.as_matrix()
    move[:3, 3] = shift
    move = centre @ move @ np.linalg.inv(centre)
    return Image(image.data, image.grid.moved_by(move)), move


def miss_mm(found: np.ndarray, truth: np.ndarray, image: Image) -> float:
    """Mean distance over the brain, in fixed mm."""
    points = image.grid.to_world(np.argwhere(image.data > 0)[::50])
    return float(np.linalg.norm(Transform(np.linalg.inv(truth) @ found).map_points(points) - points, axis=1).mean())


@pytest.mark.parametrize(
    ("degrees", "scale", "shift"),
    [
        ((180, 0, 0), 1.0, (0, 0, 0)),
        ((0, 180, 0), 1.0, (0, 0, 0)),
        ((0, 0, 180), 1.0, (0, 0, 0)),
        ((90, 0, 90), 0.8, (300, -200, 900)),
        ((40, -30, 25), 1.25, (40, 30, -30)),
    ],
)
def test_a_known_map_is_found(
    pair: tuple[Image, Image], degrees: tuple[int, int, int], scale: float, shift: tuple[float, float, float]
) -> None:
    fixed, moving = pair
    moved, truth = rotated(moving, Rotation.from_euler("xyz", degrees, degrees=True), scale, shift)
    found, score = search(*subsampled_pair(Scan.of(fixed), Scan.of(moved)))
    assert miss_mm(found, truth, fixed) < 2
    assert np.linalg.det(found) > 0
    assert 0 < score <= 1


def test_a_slab_finds_its_place(pair: tuple[Image, Image]) -> None:
    fixed, moving = pair
    part = slab_of(moving, moving.data.shape[2] // 2, moving.data.shape[2])
    moved, truth = rotated(part, Rotation.from_euler("z", 30, degrees=True), 0.83, (0, 0, 80))
    assert miss_mm(search(*subsampled_pair(Scan.of(fixed), Scan.of(moved)))[0], truth, fixed) < 3


def slab_of(image: Image, low: int, high: int) -> Image:
    place = np.eye(4)
    place[2, 3] = low
    data = image.data[:, :, low:high]
    return Image(data, Grid(data.shape, image.grid.affine @ place))


@pytest.mark.parametrize("lost", [0, 1])
def test_of_two_parts_what_is_found_from_either_is_judged_from_both(
    pair: tuple[Image, Image], lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one of them the search may be lost where the other part has nothing."""
    fixed, moving = (Scan.of(slab_of(image, 18, 40)) for image in pair)
    away = np.eye(4)
    away[:3, 3] = (25, 0, 10)
    found = [np.eye(4), np.eye(4)]
    found[lost] = np.linalg.inv(away) if lost else away
    monkeypatch.setattr(start_module, "_found_from", lambda one, *_, near: found[one.image.data is moving.image.data])
    assert fixed.content.field_of_view.is_limited
    np.testing.assert_allclose(find_start(fixed, moving, "joint").fixed_to_moving, np.eye(4), atol=1e-9)


def test_a_map_that_draws_a_thin_part_out_gives_way_to_the_headers(
    pair: tuple[Image, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coarse voxels may prefer it; the images' own tell."""
    drawn = np.diag([1.0, 1.0, 0.7, 1.0])
    monkeypatch.setattr(start_module, "search", lambda *_, **__: (drawn, 0.9))
    monkeypatch.setattr(start_module, "without_borders", lambda found, *_, **__: found)
    monkeypatch.setattr(start_module, "as_rigid", lambda *_: (drawn, 0.1))
    start = find_start(Scan.of(slab_of(pair[0], 24, 34)), Scan.of(slab_of(pair[1], 24, 34)), "joint")
    np.testing.assert_array_equal(start.fixed_to_moving, np.eye(4))


def test_a_slab_is_found_in_a_brain_as_the_brain_is_in_the_slab(pair: tuple[Image, Image]) -> None:
    """Of the two the part is the one that is searched from, whichever is the fixed image."""
    whole, other = pair
    lower = other.data.shape[2] // 3
    part = slab_of(other, lower, other.data.shape[2] - lower)
    moved, truth = rotated(part, Rotation.from_euler("xyz", (8, -6, 10), degrees=True), 1.0, (4, -9, 7))
    there = find_start(Scan.of(whole), Scan.of(moved), "rigid").fixed_to_moving
    back = find_start(Scan.of(moved), Scan.of(whole), "rigid").fixed_to_moving
    np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-9)
    assert miss_mm(there, truth, whole) < 1.0


@pytest.mark.parametrize("kind", ["joint", "rigid"])
def test_a_region_cut_out_of_tissue_finds_its_place(pair: tuple[Image, Image], kind: TransformKind) -> None:
    """Nothing around it is air: its darker tissue is no background, and nothing tells its size."""
    fixed, moving = (cropped(image, half) for image, half in zip(pair, (11, 13), strict=True))
    assert all(Scan.of(image).content.field_of_view.is_region for image in (fixed, moving))
    moved, truth = rotated(moving, Rotation.from_euler("xyz", (8, -6, 10), degrees=True), 1.0, (4, -9, 7))
    assert miss_mm(find_start(Scan.of(fixed), Scan.of(moved), kind).fixed_to_moving, truth, fixed) < 1.5


def cropped(image: Image, half: int) -> Image:
    """A box in the middle of what an image shows, ``2 half + 1`` voxels along each axis."""
    first = np.rint(np.argwhere(image.data > 0).mean(0)).astype(int) - half
    box = tuple(slice(start, start + 2 * half + 1) for start in first)
    place = image.grid.affine.copy()
    place[:3, 3] = image.grid.to_world(first)
    return Image(image.data[box], Grid(image.data[box].shape, place))


def test_what_is_thinner_than_the_voxels_of_the_search_is_compared(rng: np.random.Generator) -> None:
    """As an angiogram of vessels alone."""
    data = np.zeros((40, 40, 40), np.float32)
    data[10:30, 20:22, 20:22] = data[20:22, 5:35, 24:26] = rng.uniform(0.5, 1, 1)
    image = Image(data, Grid(data.shape, np.diag([1.0, 1, 1, 1])))
    level = make_level(*subsampled_pair(Scan.of(image), Scan.of(image))[:2], 8.0, 400, (np.zeros(3), np.zeros(3)))
    assert len(level.points)


@pytest.mark.parametrize("size", [0.1, 0.5])
def test_a_small_brain_is_found_as_well(pair: tuple[Image, Image], size: float) -> None:
    shrink = np.diag([size] * 3 + [1.0])
    fixed, moving = (Image(image.data, image.grid.moved_by(shrink)) for image in pair)
    moved, truth = rotated(moving, Rotation.from_euler("xyz", (40, -30, 25), degrees=True), 1.1, (9, 5, -4))
    start = find_start(Scan.of(fixed), Scan.of(moved), "joint")
    assert miss_mm(start.fixed_to_moving, truth, fixed) < 2 * size


def test_voxels_three_millimetres_apart_are_compared() -> None:
    grid = Grid((60, 30, 61), np.diag([1.0, 2.0, 1.4, 1.0]))
    found = subsample(Image(np.ones(grid.shape, np.float32), grid), np.ones(grid.shape, bool), 0.0)
    np.testing.assert_allclose(found.grid.spacing, [3.0, 4.0, 2.8])
    assert found.grid.shape == found.values.shape == (20, 15, 31)
    np.testing.assert_allclose(found.grid.to_world(np.zeros(3)), grid.to_world(np.zeros(3)))


def brain(litres: float) -> Subsampled:
    """A cube of so many litres."""
    grid = Grid((10, 10, 10), np.diag([10 * litres ** (1 / 3)] * 3 + [1.0]))
    return Subsampled(torch.ones(grid.shape), torch.ones(grid.shape, dtype=torch.bool), grid)


@pytest.mark.parametrize(
    ("size", "rigid", "trials"),
    [
        (1.0, False, 13 + 1 + 13),  # at scales of 0.82, 1 and 1.22
        (0.9, False, 13 + 13 + 13 + 1),  # and at the size itself
        (0.5, False, 13 * 3),  # it is no scale of a brain: half of it is not there
        (1.0, True, 1),
        (0.5, True, 13),
    ],
)
def test_offsets_are_tried_where_a_scale_leaves_volume_over(size: float, rigid: bool, trials: int) -> None:
    """Twelve beside none: four along each axis; with every rotation each, and before them headers and centres."""
    centre = np.zeros(3)
    rotations, theta = search_module._starts(brain(1.3), brain(1.3 * size**3), (centre, centre), rigid)
    assert len(rotations) == len(theta) == 2 + 400 * trials


@pytest.mark.parametrize(("near", "everywhere"), [(0.3, 0.2), (0.2, 0.3)])
def test_the_headers_place_comes_back_where_nothing_from_everywhere_is_better(
    near: float, everywhere: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Improved with all rounds, it may have a better score than what is left of every start."""

    def pursued(*given: object) -> tuple[torch.Tensor, torch.Tensor, float]:
        rotations, theta = given[4], given[5]
        assert isinstance(rotations, torch.Tensor)
        assert isinstance(theta, torch.Tensor)
        shifted = theta[:1].clone()
        shifted[0, 0] = 1.0 if len(rotations) == 2 else 2.0
        return rotations[:1], shifted, near if len(rotations) == 2 else everywhere

    monkeypatch.setattr(search_module, "_pursued", pursued)
    monkeypatch.setattr(search_module, "_CLEARLY", np.inf)
    found, score = search(brain(1.3), brain(1.3), (np.zeros(3), np.zeros(3)))
    assert score == max(near, everywhere)
    assert found[0, 3] == pytest.approx(1.0 if near > everywhere else 2.0)


def test_of_parts_the_headers_orientation_and_what_distorts_little_are_preferred() -> None:
    """Of places that fit about as well; what fits much better comes back whatever it is."""

    def place(score: float, degrees: float = 0.0, stretch: float = 1.0) -> search_module._Place:
        turn = torch.from_numpy(Rotation.from_euler("x", degrees, degrees=True).as_matrix()).float()[None]
        theta = torch.zeros(1, search_module.AFFINE)
        theta[0, 7] = search_module.RADIUS_MM * float(np.log(stretch))
        return turn, theta, score

    straight, turned, pressed = place(0.30), place(0.31, degrees=60), place(0.31, stretch=0.6)
    assert search_module._turned(search_module.Maps(*turned[:2]).matrices)[0] == pytest.approx(60, abs=0.01)
    for other in (turned, pressed):
        assert search_module._best([straight, other], None) is straight
        better = (*other[:2], 0.40)
        assert search_module._best([straight, better], None) is better


def test_the_size_of_a_small_brain_is_to_an_adults_as_their_lengths() -> None:
    """An adult's has 1.2 l; the larger of a pair counts, and from 0.15 l on it may be a part of an adult's."""
    centres = np.array([6.0, 0, 3]), np.array([0.0, 9, 0])
    (one, other, enlarged), size = adult_sized(brain(0.0012), brain(0.0006), centres)
    assert size == pytest.approx(0.1)
    np.testing.assert_allclose(enlarged, np.array(centres) / 0.1)
    litres = [1000 * np.linalg.det(t.grid.affine) / 1e6 for t in (one, other)]
    np.testing.assert_allclose(litres, [1.2, 0.6])
    assert adult_sized(brain(0.149), brain(0.1), centres)[1] == pytest.approx((0.149 / 1.2) ** (1 / 3))
    assert adult_sized(brain(0.1), brain(0.151), centres)[1] == 1


def test_a_slab_in_padding_finds_its_place(pair: tuple[Image, Image]) -> None:
    fixed, moving = pair
    index = np.stack(np.meshgrid(*[np.arange(n) for n in moving.data.shape], indexing="ij"), -1)
    along = (index - np.array(moving.data.shape) / 2) @ np.array([0.0, 0.6, 0.8])
    part = Image(moving.data * ((along > -2) & (along < 9)), moving.grid)
    moved, truth = rotated(part, Rotation.from_euler("z", 20, degrees=True), 1.0, (0, 0, 30))
    assert miss_mm(find_start(Scan.of(fixed), Scan.of(moved), "joint").fixed_to_moving, truth, fixed) < 4


def test_the_search_over_rotations_is_spared_where_the_headers_are_near(
    pair: tuple[Image, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed, moving = pair
    begun: list[int] = []
    pursued = search_module._pursued
    monkeypatch.setattr(search_module, "_pursued", lambda *a: (begun.append(len(a[4])), pursued(*a))[1])
    for degrees, starts in ((8, 1), (150, 2)):
        begun.clear()
        moved, truth = rotated(moving, Rotation.from_euler("x", degrees, degrees=True), 1.0, (5, 0, 0))
        found, _ = search(*subsampled_pair(Scan.of(fixed), Scan.of(moved)))
        assert miss_mm(found, truth, fixed) < 2
        assert len(begun) == starts


def test_joint_leaves_a_good_header_alone(pair: tuple[Image, Image]) -> None:
    start = find_start(Scan.of(pair[0]), Scan.of(pair[1]), "joint")
    np.testing.assert_array_equal(start.fixed_to_moving, np.eye(4))


def test_a_rigid_map_keeps_lengths(pair: tuple[Image, Image]) -> None:
    moved, truth = rotated(pair[1], Rotation.from_euler("y", 50, degrees=True), 1.0, (20, 0, 0))
    found, _ = search(*subsampled_pair(Scan.of(pair[0]), Scan.of(moved)), rigid=True)
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-5)
    assert miss_mm(found, truth, pair[0]) < 2


def test_the_gradient_of_the_agreement_is_that_of_its_values(pair: tuple[Image, Image]) -> None:
    subsampled = [subsample(image, image.data > 0, 0.0) for image in pair]
    centre = pair[0].grid.centre_mm
    level = make_level(subsampled[0], subsampled[1], 6.0, 1000, (centre, centre))
    matrix = torch.eye(4)[None, :3].clone()
    matrix[0, 0, 3] = 2.3
    matrix.requires_grad_()
    nmi_score(level, matrix).sum().backward()
    assert matrix.grad is not None
    step = torch.zeros(1, 3, 4)
    step[0, 0, 3] = 0.05
    with torch.no_grad():
        expected = (nmi_score(level, matrix + step) - nmi_score(level, matrix - step)) / 0.1
    assert float(matrix.grad[0, 0, 3]) == pytest.approx(float(expected[0]), rel=0.15)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_tiny_model(tmp_path_factory.mktemp("weights") / "tiny"))


def test_a_linear_registration_runs_no_network(pair_files: PairFiles, tmp_path: Path) -> None:
    result = deformgan.register(pair_files.fixed, pair_files.moving, transform="affine", model="no such weights")
    record = result.save(tmp_path / "out")
    assert record["model"] == {}
    assert record["settings"]["transform"] == "affine"
    assert "align" in record["timings"]
    assert "predict" not in record["timings"]
    np.testing.assert_allclose(result.transform.map_points(np.zeros((1, 3))), [[8, 0, 0]], atol=1)
    warp = deformgan.load_transform(tmp_path / "out" / "warp.nii.gz")
    affine = deformgan.load_transform(tmp_path / "out" / "affine.txt")
    points = np.array([[0.0, 0, 0], [20, -30, 10]])
    np.testing.assert_allclose(warp.map_points(points), affine.map_points(points), atol=1e-3)


def test_joint_undoes_a_wrong_header(phantom: Phantom, model: Model) -> None:
    fixed = nib.Nifti1Image(phantom.t2, phantom.affine)
    turn = np.diag([-1.0, -1, 1, 1])
    turn[:3, 3] = (0, 0, 500)
    result = deformgan.register(
        fixed, nib.Nifti1Image(phantom.t1, turn @ phantom.affine), transform="joint", model=model, refine_steps=0
    )
    assert miss_mm(result.transform.affine, turn, Image(phantom.t2, Grid(phantom.t2.shape, phantom.affine))) < 3
    assert result.quality.displacement_mean_mm > 450


@pytest.mark.parametrize("name", ["start.txt", "start.nii.gz", "start.h5", "start.lta", "start.mat"])
def test_registration_starts_from_a_given_map(
    name: str, pair_files: PairFiles, phantom: Phantom, model: Model, tmp_path: Path
) -> None:
    shift = np.eye(4)
    shift[0, 3] = 8
    grid = Grid(phantom.t2.shape, phantom.affine)
    kind = "fsl" if name.endswith(".mat") else None
    Transform(shift).save(tmp_path / name, grid, moving=grid, file_format=kind)
    result = deformgan.register(pair_files.fixed, pair_files.moving, init=tmp_path / name, model=model, refine_steps=0)
    points = grid.to_world(np.argwhere(phantom.labels > 0)[::200])
    np.testing.assert_allclose((result.transform.map_points(points) - points).mean(0), [8, 0, 0], atol=0.5)
    assert len(result.provenance["inputs"]["init"]["sha256"]) == 64


def test_bad_starts_are_refused(pair_files: PairFiles, phantom: Phantom, model: Model, tmp_path: Path) -> None:
    def run(**options: object) -> None:
        deformgan.register(pair_files.fixed, pair_files.moving, model=model, **options)  # type: ignore[arg-type]

    with pytest.raises(UsageError, match="unknown transform 'similarity'"):
        run(transform="similarity")
    with pytest.raises(InputError, match="does not exist"):
        run(init=tmp_path / "none.nii.gz")
    grid = Grid(phantom.t2.shape, phantom.affine)
    field = Transform(np.eye(4), np.random.default_rng(0).normal(size=(*grid.shape, 3)), grid)
    with pytest.raises(UsageError, match="holds a field"):
        run(init=field, transform="affine")
    far = np.eye(4)
    far[0, 3] = 1e4
    write_affine(tmp_path / "far.txt", far)
    with pytest.raises(InputError, match="leads nowhere"):
        run(init=tmp_path / "far.txt")


def test_joint_keeps_headers_that_are_as_good_as_what_it_finds(pair: tuple[Image, Image]) -> None:
    """Exactly: a thirtieth of a voxel is no reason to sample the image anew."""
    moved, truth = rotated(pair[1], Rotation.identity(), 1.0, (0.1, 0, 0))
    fixed, moving = Scan.of(pair[0]), Scan.of(moved)
    np.testing.assert_array_equal(find_start(fixed, moving, "joint").fixed_to_moving, np.eye(4))
    # an affine map that was asked for by itself is found
    assert miss_mm(find_start(fixed, moving, "affine").fixed_to_moving, truth, pair[0]) < 0.2


def test_joint_does_not_keep_headers_that_are_worse(pair: tuple[Image, Image]) -> None:
    moved, truth = rotated(pair[1], Rotation.from_euler("z", 12, degrees=True), 1.0, (6, 0, 0))
    found = find_start(Scan.of(pair[0]), Scan.of(moved), "joint").fixed_to_moving
    assert miss_mm(found, truth, pair[0]) < 1
    assert miss_mm(np.eye(4), truth, pair[0]) > 5


def test_images_apart_are_brought_together_by_their_contents_centres(pair: tuple[Image, Image]) -> None:
    """Both lie beside the origin: the shift is the difference of the centres, whatever these are."""
    aside = np.eye(4)
    aside[:3, 3] = (40, 0, 0)
    fixed = Image(pair[0].data, pair[0].grid.moved_by(aside))
    apart = aside.copy()
    apart[:3, 3] += (0, 25, 0)
    moving = Image(pair[1].data, pair[1].grid.moved_by(apart))
    found = find_start(Scan.of(fixed), Scan.of(moving), "deform").fixed_to_moving
    np.testing.assert_array_equal(found[:3, :3], np.eye(3))
    np.testing.assert_allclose(found[:3, 3], (0, 25, 0), atol=1.5)


def test_the_score_of_an_image_with_itself_is_one() -> None:
    """With values in the middle of the histogram's bins each fixed bin meets one moving bin."""
    shape = (12, 10, 14)
    values = torch.randint(0, 8, shape, generator=torch.Generator().manual_seed(1)).float() / 7
    image = Subsampled(values, torch.ones(shape, dtype=torch.bool), Grid(shape, np.diag([3.0, 3.0, 3.0, 1.0])))
    centre = image.grid.centre_mm
    level = make_level(image, image, 3.0, 10_000, (centre, centre))
    identity = torch.eye(4)[None, :3]
    assert float(nmi_score(level, identity)) == pytest.approx(1.0, abs=1e-4)
    # independent values share next to nothing, and what leaves the image counts by what is left of what is needed
    other = Subsampled(values.flip(0, 1), image.mask, image.grid)
    assert float(nmi_score(make_level(image, other, 3.0, 10_000, (centre, centre)), identity)) < 0.1
    shift = identity.clone()
    shift[0, 2, 3] = 3.0 * 7  # half of the last axis
    assert float(nmi_score(level, shift)) < 0.1


def test_a_map_that_distorts_must_fit_better() -> None:
    """A turn, a shift and one scale cost nothing; a stretch by e along one axis two thirds, in closed form."""
    turned = search_module._rotations(5)[3:4] * 1.3
    stretched = turned @ torch.diag(torch.tensor([np.e, 1.0, 1.0])).float()
    maps = torch.cat([torch.cat([one, torch.full((1, 3, 1), 9.0)], 2) for one in (turned, stretched)])
    found = rated(torch.tensor([0.3, 0.3]), maps, None)
    torch.testing.assert_close(found, torch.tensor([0.3, 0.3 * (1 - 2 / 3)]), rtol=1e-4, atol=1e-6)


def test_of_a_region_one_scale_and_the_way_from_the_headers_must_fit_better_too() -> None:
    """It meets parts of any size anywhere: a scale by s costs three times the square of its logarithm."""
    region = Region(torch.tensor([9.0, 9.0, 5.0]), 10.0)
    scaled = torch.cat([1.3 * torch.eye(3)[None], torch.full((1, 3, 1), 9.0)], 2)
    found = rated(torch.tensor([0.3]), scaled, region)
    expected = 0.3 * (1 - 3 * np.log(1.3) ** 2) * (1 - 0.4**2)
    torch.testing.assert_close(found, torch.tensor([expected]).float(), rtol=1e-4, atol=1e-6)
    far = torch.cat([torch.eye(3)[None], torch.full((1, 3, 1), 99.0)], 2)
    assert float(rated(torch.tensor([0.3]), far, region)) == pytest.approx(0.15)  # lost headers
