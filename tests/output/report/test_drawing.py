"""What a report draws: slices and directions, colours and signs, lines in their places, words that agree."""

from __future__ import annotations

import dataclasses
import inspect
import io
import re
import shlex
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import small_report
import tyro
from PIL import Image as Picture

import deformgan
from deformgan.align.options import Options
from deformgan.commands.options import given
from deformgan.commands.register import Register
from deformgan.io.image import Image
from deformgan.output.report import outlines, texts, views
from deformgan.output.report.cells import LABEL_COLOURS, draw
from deformgan.output.report.encode import jpeg
from deformgan.output.report.figures import tiles, verdict
from deformgan.output.report.material import Material, read_selections
from deformgan.output.report.stacks import PLANES, cut, cut_stacks, grids
from deformgan.output.report.volumes import viewer_grid, viewer_volumes
from deformgan.preprocess.conform import WHITE
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform

# a head's front, left and top differ: a ball with a nose, one ear and a hat, in mm RAS+
SHAPE = (60, 70, 64)


def _head(grid: Grid) -> np.ndarray:
    x, y, z = np.moveaxis(grid.to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)), -1, 0)
    ball = np.sqrt(x**2 + y**2 + z**2) < 50
    nose = (np.abs(x) < 8) & (np.abs(z) < 8) & (y > 40) & (y < 62)
    ear = (np.abs(y) < 8) & (np.abs(z) < 8) & (x < -40) & (x > -60)
    hat = (np.abs(x) < 8) & (np.abs(y) < 8) & (z > 40) & (z < 58)
    return (1.0 * ball + 0.5 * nose + 0.7 * ear + 0.9 * hat).clip(0, 1).astype(np.float32)


def _material(axes: str = "RAS", transform: Transform | None = None, **more: Any) -> Material:
    """The head on a grid whose voxel axes run in any direction."""
    plain = Grid.centred(SHAPE, 2.0, np.zeros(3))
    turned = nib.Nifti1Image(_head(plain), plain.affine)
    ornt = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(plain.affine), nib.orientations.axcodes2ornt(tuple(axes))
    )
    turned = turned.as_reoriented(ornt)
    image = Image(np.asarray(turned.dataobj), Grid(turned.shape, turned.affine))
    transform = transform or Transform.identity()
    return Material(image, image, transform.apply(image, image.grid), transform, **more)


@pytest.mark.parametrize("axes", ["RAS", "LPI", "PSR", "ILA"])
def test_slices_are_radiological_whatever_the_axes_of_the_file(axes: str) -> None:
    stacks = {stack.plane: stack for stack in cut_stacks(_material(axes))}
    half = {plane: stack.cut(stack.fixed, 3) for plane, stack in stacks.items()}

    def at_the_end(picture: np.ndarray, axis: int, last: bool) -> float:
        """What lies a few pixels inside the picture's content at one end of an axis: nose 0.5, ear 0.7, hat 0.9."""
        lines = np.flatnonzero((picture > 0.1).any(axis=1 - axis))
        line = picture.take(lines[-1] - 4 if last else lines[0] + 4, axis)
        return float(np.median(line[line > 0.1]))

    assert at_the_end(half["axial"], 0, False) == pytest.approx(0.5, abs=0.02), "the nose points up in axial slices"
    assert at_the_end(half["axial"], 1, True) == pytest.approx(0.7, abs=0.02), "the patient's left is on the right"
    assert at_the_end(half["coronal"], 1, True) == pytest.approx(0.7, abs=0.02)
    assert at_the_end(half["coronal"], 0, False) == pytest.approx(0.9, abs=0.02), "the top of the head is up"
    assert at_the_end(half["sagittal"], 1, False) == pytest.approx(0.5, abs=0.02), "noses point left in sagittal ones"
    assert at_the_end(half["sagittal"], 0, False) == pytest.approx(0.9, abs=0.02)
    assert stacks["axial"].gap_mm == pytest.approx(stacks["axial"].grid.spacing[2])


def test_a_point_is_drawn_where_the_picture_has_it() -> None:
    material = _material()
    for stack in cut_stacks(material):
        voxel = np.array([[20.0, 30.0, 4.0], [11.0, 50.0, 2.0]])[:, :3]
        voxel[:, PLANES[::-1].index(stack.plane)] = 4
        xy, number = stack.to_page(stack.grid.to_world(voxel))
        np.testing.assert_allclose(number, 4)
        for (x, y), index in zip(xy, voxel.astype(int), strict=True):
            volume = np.zeros(stack.grid.shape)
            volume[tuple(index)] = 1
            rows, columns = np.nonzero(cut(volume, stack.plane, 4))
            assert (x, y) == pytest.approx((columns[0] + 0.5, rows[0] + 0.5))


def test_slices_go_through_the_lesion() -> None:
    grid = Grid.centred(SHAPE, 2.0, np.zeros(3))
    lesion = np.zeros(SHAPE, np.uint8)
    lesion[34:37, 40:43, 45:48] = 1
    centre = grid.to_world(np.array([35.0, 41.0, 46.0]))
    material = _material(selections={"fixed_lesion": Image(lesion, grid)})
    for plane, one in zip(PLANES, grids(material), strict=True):
        axis = 2 - PLANES.index(plane)
        assert one.to_index(centre)[axis] == pytest.approx(round(one.to_index(centre)[axis]), abs=1e-6)
    drawn = draw(material)
    assert all(any(cell["lesion"] for cell in plane["cells"]) for plane in drawn.planes)


def test_small_brains_are_drawn_as_finely_as_large_ones() -> None:
    large = _material()
    small = Image(large.fixed.data, Grid.centred(SHAPE, 0.2, np.zeros(3)))
    material = Material(small, small, small, Transform.identity())
    for a, b in zip(grids(large), grids(material), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a.spacing, 10 * b.spacing)
    assert viewer_grid(large).shape == viewer_grid(material).shape


@pytest.mark.parametrize("scale", [0.87, 1.25])
def test_what_grew_is_orange_and_what_shrank_is_blue(scale: float) -> None:
    """The map goes from fixed to moving: where it enlarges, it reads more tissue into less room, so tissue shrank."""
    transform = Transform(np.diag([scale, 1, 1, 1.0]))
    material = _material(transform=transform)
    grid = Grid.centred((3, 3, 3), 2.0, np.zeros(3))
    np.testing.assert_allclose(material.volume_change(grid), 1 / scale, rtol=1e-6)
    widths = [float((image.data > 0.95).sum()) for image in (material.moving, material.moved)]
    assert widths[1] / widths[0] == pytest.approx(1 / scale, rel=0.1), "the moved head is what grew or shrank"
    drawn = views.change_map(material.volume_change(grid)[..., 0], np.ones((3, 3), bool))
    assert ((drawn[..., 0] > drawn[..., 2]) == (scale < 1)).all(), "orange is more red than blue"
    half_and_double = views.change_map(np.array([[0.5, 2.0]]), np.ones((1, 2), bool))[0]
    assert half_and_double.tolist() == views.CHANGE_COLOURS[[0, -1]].tolist()


def test_folds_are_magenta_and_nothing_is_black() -> None:
    change, mask = np.array([[-1.0, 0.0, 1.0, 1.0]]), np.array([[True, True, True, False]])
    drawn = views.change_map(change, mask)[0].tolist()
    assert drawn[0] == drawn[1] == list(views.FOLD)
    assert min(drawn[2]) > 240
    assert drawn[3] == [0, 0, 0]


def test_edges_that_agree_are_white() -> None:
    one, none = np.ones((1, 1)), np.zeros((1, 1))
    assert views.edge_difference(one, one)[0, 0].tolist() == [255, 255, 255]
    assert views.edge_difference(one, none)[0, 0].tolist() == list(views.EDGE_FIXED)
    assert views.edge_difference(none, one)[0, 0].tolist() == list(views.EDGE_OTHER)
    step = np.zeros((40, 40))
    step[:, 20:] = 1
    strength = views.edge_strength(step, np.ones((40, 40), bool), 1.0)
    assert strength[:, 19:21].min() > 0.9
    assert strength[:, :14].max() < 0.01


def test_edges_inside_are_drawn_although_the_rim_is_steeper() -> None:
    image, mask = np.zeros((40, 40)), np.zeros((40, 40), bool)
    mask[5:35, 5:35] = True
    image[mask] = 1.0
    image[15:25, 15:25] = 0.8
    lines = views.edges(image, mask)
    assert lines[14:26, 14:26].sum() > 20
    assert lines[5, 5:35].sum() > 20
    assert not lines[8:12, 8:12].any()
    assert not views.edges(image, np.zeros_like(mask)).any()


def test_amounts_run_from_the_first_colour_to_the_last() -> None:
    drawn = views.amount_map(np.array([[0.0, 5.0, 10.0, 99.0]]), np.ones((1, 4), bool), 10.0, views.LENGTH_COLOURS)[0]
    assert drawn[0].tolist() == views.LENGTH_COLOURS[0].tolist()
    assert drawn[2].tolist() == drawn[3].tolist() == views.LENGTH_COLOURS[-1].tolist()
    brightness = views.colours_of(views.LENGTH_COLOURS).astype(float) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(brightness) >= -0.5).all(), "lightness alone tells the order"


@pytest.mark.parametrize("shape", [(12, 17), (12, 17, 3)])
def test_a_picture_is_what_was_drawn(shape: tuple[int, ...]) -> None:
    pixels = np.full(shape, 200, np.uint8)
    pixels[:, 8:] = 40
    read = np.asarray(Picture.open(io.BytesIO(jpeg(pixels))))
    assert read.shape == shape
    assert np.abs(read.astype(int) - pixels).mean() < 3
    with pytest.raises(ValueError, match="no picture"):
        jpeg(pixels.astype(float))


def _corners(path: str) -> np.ndarray:
    """Positions (N, 2) in pixels of path data with one ``M`` and relative steps."""
    start, steps = re.fullmatch(r"M(-?\d+ -?\d+)l([-\d ]+)z?", path).groups()  # type: ignore[union-attr]
    numbers = np.array(steps.split(), float).reshape(-1, 2)
    return np.vstack([np.array(start.split(), float), numbers]).cumsum(0) / outlines.UNITS


def test_an_outline_surrounds_its_mask() -> None:
    rows, columns = np.indices((40, 60)) + 0.5
    disk = np.hypot(rows - 21, columns - 33) < 12
    corners = _corners(outlines.outline(disk))
    np.testing.assert_allclose(np.hypot(*(corners - (33, 21)).T), 12, atol=0.7)
    assert outlines.outline(np.zeros((5, 5), bool)) == ""
    whole = _corners(outlines.outline(np.ones((30, 30), bool)))
    assert (whole.min(), whole.max()) == pytest.approx((0, 30), abs=0.6), "an outline at the rim is not lost"


def test_a_ring_smaller_than_a_unit_is_not_drawn() -> None:
    """A path without a step is an error, after which a browser draws nothing more of it."""
    angles = np.linspace(0, 2 * np.pi, 9)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    both = np.concatenate([outlines._whole(7.03 + 0.01 * ring), outlines._whole(7.03 + ring)])
    small, large = outlines._paths(both, np.array([9, 18]))
    assert small == ""
    assert large.startswith("M80 70l")
    assert len(large.removeprefix("M80 70l").split()) == 2 * 8


def test_labels_are_outlined_together_as_each_is_alone() -> None:
    generator = np.random.default_rng(4)
    labels = np.kron(generator.integers(0, 9, (9, 11)), np.ones((7, 6), int))
    labels[generator.random(labels.shape) < 0.02] = 400
    found = outlines.label_outlines(labels, 1000)
    assert found == {v: path for v in (*range(1, 9), 400) if (path := outlines.outline(labels == v))}
    assert len(found) >= 8


def test_every_label_has_its_colour() -> None:
    labels = np.zeros((40, 60), int)
    labels[5:15, 5:15], labels[20:30, 30:50] = 3, 3 + len(LABEL_COLOURS) + 1
    found = outlines.label_outlines(labels, len(LABEL_COLOURS))
    assert list(found) == [3, 4]
    assert _corners(found[3]).max() < 16
    assert _corners(found[4])[:, 0].min() > 29


@pytest.mark.parametrize(("plane", "across", "up"), [("axial", 0, 1), ("coronal", 0, 2), ("sagittal", 1, 2)])
def test_grid_lines_go_where_the_map_takes_them(plane: str, across: int, up: int) -> None:
    """A shift of whole voxels moves every line as it moves a voxel of the picture."""
    displacement = np.zeros((16, 18, 3))
    displacement[..., across], displacement[..., up] = 2, 1
    mask = np.ones((16, 18), bool)
    drawn = [outlines.grid_lines(d, mask, across, up, 5) for d in (0 * displacement, displacement)]
    still, moved = ([_corners("M" + line) for line in path.split("M")[1:]] for path in drawn)
    assert len(still) == len(moved) == 4 + 4
    for a, b in zip(still, moved, strict=True):
        np.testing.assert_allclose(b - a, np.broadcast_to((-2, -1), a.shape))
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    shifted = np.roll(volume, (-1 if across == 0 else 0, -1 if across == 1 else 0, 0), (0, 1, 2))
    pictures = [cut(v, plane, 2) for v in (volume, shifted)]
    assert np.array_equal(np.roll(pictures[0], 1, 1), pictures[1])


def test_images_that_lie_apart_are_brought_together_to_be_seen() -> None:
    fixed = _material().fixed
    away = Image(fixed.data, Grid.centred(SHAPE, 2.0, np.array([300.0, 0, 0])))
    shift = np.eye(4)
    shift[0, 3] = 300
    material = Material(fixed, away, fixed, Transform(shift))
    assert material.overlap == (0.0, 1.0)
    np.testing.assert_allclose(material.before.affine[:3, 3], (300, 0, 0), atol=1)
    assert "shown 300 mm from where" in texts.before_sentence(material)
    assert "0 % lies" in texts.overlap_sentence(material)
    drawn = draw(material)
    assert "displacement" not in drawn.rows, "300 mm everywhere would be one colour"
    assert texts.before_sentence(_material()) == ""


def test_the_volumes_of_the_viewer_keep_their_values() -> None:
    material = small_report.material()
    grid = viewer_grid(material)
    found = {v["name"]: v for v in viewer_volumes(material, grid, "displacement", 6.0, 6.0)}
    read = {name: _nifti(one["data"]) for name, one in found.items()}
    np.testing.assert_allclose(read["fixed"].affine, grid.affine, atol=1e-4)
    expected = Transform.identity().apply(material.fixed, grid).data
    low, high = material.windows["fixed"]
    assert np.abs(read["fixed"].get_fdata() - expected.clip(low, high)).max() < 0.01 * (high - low)
    change = read["change"]
    world = Grid(change.shape, change.affine)
    inside = np.abs(change.get_fdata()) > 0.01
    assert inside.any()
    wanted = np.log2(material.volume_change(world)).clip(-1, 1)
    assert np.abs(change.get_fdata() - wanted)[inside].max() < 0.01
    assert set(np.unique(read["labels"].get_fdata())) <= set(np.unique(material.labels.data))  # type: ignore[union-attr]


def _nifti(text: str) -> nib.Nifti1Image:
    import base64
    import gzip

    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


# -- words -----------------------------------------------------------------------------------------------------------


def test_images_are_described() -> None:
    grid = Grid((10, 20, 30), np.array([[-1.0, 0, 0, 5], [0, 0, 2.5, 0], [0, -0.9375, 0, 7], [0, 0, 0, 1]]))
    image = Image(np.linspace(-5, 800, 6000, dtype=np.float32).reshape(grid.shape), grid)
    rows = dict(
        texts.image_facts(Material(image, image, image, Transform.identity()), dict.fromkeys(("fixed", "moving"), "a"))[
            0
        ].rows
    )
    assert rows["Size"] == "10 × 20 × 30 voxels"
    assert rows["Spacing"] == "1 × 0.94 × 2.5 mm"
    assert rows["Orientation"] == "LIA (axes run to the left, inferior, anterior)"
    assert rows["Values"] == "-5 to 800 (float32)"
    assert rows["Covers"] == "10 × 19 × 75 mm"


@pytest.mark.parametrize(
    "words",
    [
        ["-f", "a b.nii.gz", "-m", "it's.nii", "-o", "out"],
        [
            "-f",
            "a",
            "-m",
            "b",
            "-o",
            "o",
            "--transform",
            "joint",
            "--uncertainty",
            "--refine-steps",
            "0",
            "--threads",
            "2",
        ],
        [
            "-f",
            "a",
            "-m",
            "b",
            "-o",
            "o",
            "--moving-labels",
            "l",
            "--no-inverse",
            "--device",
            "cpu",
            "--smoothness",
            "2",
        ],
    ],
)
def test_the_command_does_the_same_again(words: list[str]) -> None:
    asked = _parsed(words)
    text = texts.command(small_report.record(arguments=given(asked)))
    again = shlex.split(text)
    assert again[:2] == ["deformgan", "register"]
    assert _parsed(again[2:]) == asked


def _parsed(words: list[str]) -> Register:
    return tyro.cli(Register, args=words, config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes))


def test_the_call_in_python_is_one_that_register_takes() -> None:
    inputs = {role: {"path": f"{role}.nii"} for role in ("fixed", "moving", "moving_labels")}
    changes = {"transform": "deform", "smoothness": 2.0, "refine_steps": 7}
    settings = small_report.record()["settings"] | changes
    text = texts.command(small_report.record(inputs=inputs, settings=settings))
    assert text.startswith("deformgan.register('fixed.nii', 'moving.nii', moving_labels='moving_labels.nii', ")
    names = re.findall(r"(\w+)=", text)
    assert names == ["moving_labels", "transform", "smoothness", "refine_steps"]
    taken = inspect.signature(deformgan.register).parameters
    options = {field.name for field in dataclasses.fields(Options)}
    assert set(names) <= set(taken) | options
    memory = texts.command(small_report.record(inputs={"fixed": {"path": None}, "moving": {"path": None}}))
    assert memory.startswith("deformgan.register(fixed_image, moving_image")


def test_the_methods_say_what_was_done_and_cite_it() -> None:
    material, names = small_report.material(), {"fixed": "T2.nii.gz", "moving": "T1.nii.gz"}
    text = texts.methods(small_report.record(), material, names)
    for words in ("T1.nii.gz", "deformgan 1.2.3 [1]", "weights t1-t2, SHA-256 0123456789ab", "150 steps", "said look"):
        assert words in text
    assert "112 × 128 × 96 voxels of 1.5 mm" in text
    assert "lesions" not in text
    told = texts.references(small_report.record())
    assert len(told) == 2
    assert all(f"[{n}]" in text for n in (1, 2))
    cited = (Path(__file__).parents[3] / "CITATION.cff").read_text("utf-8")
    assert "arXiv:2002.11430" in told[1]
    assert "arXiv:2002.11430" in cited
    assert "Version 1.2.3" in told[0]
    rigid = small_report.record(model={}, settings={"transform": "rigid"})
    text = texts.methods(rigid, material, names)
    assert "A rigid map" in text
    assert "network" not in text
    assert "[2]" not in text
    assert len(texts.references(rigid)) == 1
    inputs = small_report.record()["inputs"] | {"fixed_lesion": {"path": "l.nii"}}
    assert "lesions were left out" in texts.methods(small_report.record(inputs=inputs), material, names)


def test_every_complaint_has_plain_words_and_a_way_out() -> None:
    from deformgan.quality.verdict import COMPLAINTS

    for complaint in COMPLAINTS.values():
        quality = small_report.QUALITY | {"doubts": [f"{complaint} (probability of a failure 0.31)"]}
        found = verdict(small_report.record(quality=quality))
        assert found.because[0].text.startswith(complaint[0].upper() + complaint[1:])
        assert found.because[0].plain
    folded = small_report.QUALITY | {
        "verdict": "fail",
        "reasons": ["the images agree less than before (similarity 1 → 0)"],
    }
    for kind, way in (("deform", "--transform joint"), ("joint", "--init")):
        record = small_report.record(quality=folded, settings={"transform": kind})
        assert way in verdict(record).because[0].plain


def test_the_displacement_says_what_lay_between_the_contents_before() -> None:
    record = {"quality": {"displacement_mean_mm": 50.0, "displacement_max_mm": 61.4}, "timings": {}}
    for apart, more in ((None, ""), (0.0, ""), (4.9, ""), (47.9, "; the contents lay 48 mm apart")):
        record["quality"]["initial_shift_mm"] = apart
        (tile,) = tiles(record)
        assert tile.note == f"mean, at most 61 mm{more}"


def test_tiles_show_what_is_known() -> None:
    shown = {tile.name: tile.value for tile in tiles(small_report.record())}
    assert shown["Similarity"] == "0.100 → 0.300"
    assert shown["Time"] == "2.9 s"
    assert "Inverse error" not in shown


def test_masks_are_read_again_by_their_paths(tmp_path: Path) -> None:
    path = tmp_path / "lesion.nii.gz"
    nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)).to_filename(path)
    inputs = {"fixed_lesion": {"path": str(path)}, "moving_lesion": {"path": str(tmp_path / "gone.nii")}}
    assert list(read_selections({"inputs": inputs | {"fixed_mask": {"path": None}}})) == ["fixed_lesion"]
    asked = []
    read_selections({"inputs": {"fixed_lesion": {"path": str(path)}}}, asked.append)
    assert asked == [{"path": str(path)}]


def test_a_brain_in_ct_is_drawn_in_its_own_greys() -> None:
    grid = Grid((60, 60, 60), np.eye(4))
    away = np.linalg.norm(np.indices(grid.shape) - 29.5, axis=0)
    tissue = 30 + 10 * np.sin(np.arange(60) / 3)[:, None, None] + np.zeros(grid.shape)
    ct = np.where(away < 20, tissue, np.where(away < 24, 1000, -1000)).astype(np.float32)
    head = np.where(away < 24, tissue, 0).astype(np.float32)
    for fixed, moving, role in ((ct, head, "fixed"), (head, ct, "moving")):
        low, high = Material(*(Image(data, grid) for data in (fixed, moving, moving)), Transform(np.eye(4))).windows[
            role
        ]
        assert -40 < low < 20
        assert 40 < high < 100


@pytest.mark.parametrize("fat", [1.0, 5.0])
def test_skull_and_fat_do_not_leave_the_brain_dark(fat: float) -> None:
    grid = Grid((60, 60, 60), np.eye(4))
    away = np.linalg.norm(np.indices(grid.shape) - 29.5, axis=0)
    head = np.where(away < 28, np.where(away > 24, fat, 0.5 + away / 48), 0).astype(np.float32)
    brain = np.where(away < 20, head, 0).astype(np.float32)
    for fixed, moving in ((brain, head), (head, brain), (head, head)):
        images = [Image(data, grid) for data in (fixed, moving, moving)]
        windows = Material(*images, Transform(np.eye(4))).windows
        for role, data in (("fixed", fixed), ("moving", moving)):
            low, high = windows[role]
            assert low == 0
            # what is brighter than the brain is cut off; a window that it fills well stays as it was
            expected = 0.95 if fat > 1 else float(np.quantile(data[data > 0], WHITE))
            assert high == pytest.approx(expected, abs=0.15)
