"""The product, on one page: two images in; a moved image, a transform, a verdict and a record out."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.align.start import LINEAR, Start, check_transform, find_start
from deformgan.errors import InputError, UsageError
from deformgan.io.image import Image, load_image, load_labels
from deformgan.io.points import Points
from deformgan.models.load import DEFAULT_MODEL, Model, computes_in_bf16, load_model
from deformgan.output import provenance
from deformgan.output.provenance import Progress, Stopwatch, no_progress
from deformgan.output.registration import Registration
from deformgan.preprocess.conform import WORKING_SHAPE, WORKING_SPACING, Conformed, conform_pair, require_overlap
from deformgan.preprocess.input_warnings import input_warnings
from deformgan.preprocess.lesions import Lesions
from deformgan.preprocess.masks import read_selection
from deformgan.quality import error_map, examine, judge
from deformgan.refine import DEFAULT_SETTINGS, DEFAULT_STEPS, refine
from deformgan.spatial.field import affine_field, fit_affine
from deformgan.transforms.compact import compact
from deformgan.transforms.transform import Transform

if TYPE_CHECKING:
    from deformgan.io.image import ImageLike


def register(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    moving_labels: ImageLike | None = None,
    moving_points: Points | np.ndarray | None = None,
    fixed_mask: ImageLike | None = None,
    moving_mask: ImageLike | None = None,
    fixed_lesion: ImageLike | None = None,
    moving_lesion: ImageLike | None = None,
    model: str | Path | Model = DEFAULT_MODEL,
    refine_steps: int | None = None,
    smoothness: float = 1.0,
    transform: str = "deform",
    init: str | Path | Transform | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    uncertainty: bool = False,
    progress: Progress = no_progress,
) -> Registration:
    """Align a moving image to a fixed one.

    Args:
        fixed, moving: Paths, nibabel images or `Image` objects; any size, spacing and orientation.
        moving_labels: A label map in the moving image's space, to be carried along.
        moving_points: Points in the moving image's space, to be carried along; (N, 3) world mm (RAS+).
        fixed_mask, moving_mask: Not 0 where that image is to be used; the rest of it counts as background.
        fixed_lesion, moving_lesion: Not 0 where that image has no counterpart in the other: nothing is compared there,
            and the map follows from what is around.
        model: Shipped weights by name, a folder of weights, or a loaded model.
        refine_steps: Optimisation steps after the network, 0 for none; default: what was best in tests.
        smoothness: How much bending costs the optimisation, relative to what was best in tests; more is smoother.
        transform: ``deform`` starts where the headers, or else the contents' centres, place the images; ``joint`` from
            the affine map that a search over all rotations finds; ``affine`` and ``rigid`` are that search alone.
        init: A map from fixed to moving to start from, linear or with a field; a file as `load_transform` takes it.
        device: ``auto``, ``cpu`` or ``cuda``; a loaded model stays where it is, and this is not used.
        precision: Number format inside the network: ``auto``, ``fp32`` or ``bf16``.
        seed: Only recorded: nothing in a registration is random.
        uncertainty: Whether to map the expected error.
        progress: Called with the name of each stage as it begins.

    Raises:
        UsageError: Unknown weights or options.
        InputError: An image or the weights cannot be used; the message says why and what to do about it.
    """
    check_transform(transform)
    steps = DEFAULT_STEPS if refine_steps is None else refine_steps
    if steps < 0:
        raise UsageError(f"{steps} refinement steps are less than 0", "give 0 for none")
    if not 0 < smoothness < float("inf"):
        raise UsageError(f"a smoothness of {smoothness:g} is not above 0", "give 1 for what was best in tests")
    device = str(next(model.network.parameters()).device) if isinstance(model, Model) else pick_device(device)
    precision = _resolved(precision, device)
    watch = Stopwatch(progress)
    sources = {"fixed": fixed, "moving": moving, "moving_labels": moving_labels}
    sources |= {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
    sources |= {"fixed_lesion": fixed_lesion, "moving_lesion": moving_lesion}
    if moving_points is not None:
        sources["moving_points"] = moving_points.path if isinstance(moving_points, Points) else moving_points
    if isinstance(init, str | Path):
        sources["init"] = init
    checksums = provenance.describe_inputs_later({role: one for role, one in sources.items() if one is not None})

    with watch.stage("read"):
        fixed, moving, labels = _read(fixed, moving, moving_labels)
        if labels is not None:
            require_overlap(moving, labels)
        points = None if moving_points is None else _points_within(moving_points, moving)
        fixed_part = read_selection("fixed", fixed, moving, fixed_mask, fixed_lesion)
        moving_part = read_selection("moving", moving, fixed, moving_mask, moving_lesion)
    network = None
    if transform not in LINEAR:
        with watch.stage("load model"):
            network = model if isinstance(model, Model) else load_model(model, device)
    shape, spacing = (network.grid_shape, network.spacing) if network else (WORKING_SHAPE, WORKING_SPACING)
    start = Start(moving_part.image, lesion=moving_part.lesion)
    if transform != "deform" or init is not None:
        with watch.stage("align"):
            left_out = fixed_part.lesion, moving_part.lesion
            start = find_start(fixed_part.image, moving_part.image, transform, init, left_out)
    with watch.stage("conform"):
        fixed_c, moving_c = conform_pair(fixed_part.image, start.moving, shape, spacing, start.matrix)
        lesions = Lesions.on_grids(fixed_part.lesion, start.lesion, (fixed_c.grid, moving_c.grid))
    notes = [*input_warnings("fixed", fixed_c, spacing), *input_warnings("moving", moving_c, spacing)]
    for note in notes:
        warnings.warn(note, stacklevel=2)
    if network is None:
        field, predicted, backward = torch.zeros(1, 3, *(n // 2 for n in shape)), None, None
    else:
        pair = fixed_c.tensor.to(device), moving_c.tensor.to(device)
        with watch.stage("predict"):
            predicted = field = lesions.fill_harmonic(network.predict(*pair, precision))
            # the map of the expected error alone is worth a second prediction
            backward = network.predict(pair[1], pair[0], precision).cpu() if uncertainty else None
        if steps:
            with watch.stage("refine"):
                mask, told = fixed_c.mask.to(device), lambda n, of: progress(f"refine: step {n} of {of}")
                how = replace(DEFAULT_SETTINGS, bending=smoothness * DEFAULT_SETTINGS.bending)
                away = lesions.to(device)
                field = refine(*pair, field, steps, mask=mask, lesions=away, settings=how, progress=told)
                field = lesions.fill_harmonic(field)
        field, predicted = field.cpu(), predicted.cpu()
    with watch.stage("transform"):
        linear = None if network else start.matrix
        found = start.completed(_transform(fixed_c, moving_c, field) if linear is None else Transform(linear))
        found = compact(found, fixed.grid, fixed_c.mask[0, 0].numpy(), fixed_c.grid)
        moved = found.apply(moving, fixed.grid)
        moved_labels = None if labels is None else found.apply_labels(labels, fixed.grid)
        moved_points = None if points is None else points.at(found.apply_points(points.positions_mm))
    with watch.stage("assess"):
        evidence = examine(fixed_c, moving_c, field, predicted, backward, lesions)
        quality = judge(evidence)
        doubt = error_map(evidence, fixed.grid) if uncertainty and evidence is not None else None
    record = provenance.record(
        inputs=checksums.result(),
        model=_described(network),
        settings={
            "transform": transform,
            "init": str(init) if isinstance(init, str | Path) else init is not None,
            "refine_steps": steps if network else 0,
            "smoothness": smoothness,
            "device": device,
            "precision": precision,
            "seed": seed,
            "threads": torch.get_num_threads(),
            "working_grid": list(fixed_c.grid.shape),
            "working_spacing_mm": float(fixed_c.grid.spacing[0]),
        },
        notes=notes,
        watch=watch,
    )
    shown = (fixed, moving)
    return Registration(moved, found, quality, record, moving.grid, moved_labels, moved_points, shown, doubt)


def _described(network: Model | None) -> dict[str, Any]:
    """What the record says of the weights: nothing where none were used."""
    if network is None:
        return {}
    described = {"name": network.name, "sha256": network.sha256, "network": network.config["network"]}
    return described | ({"generator": network.generator_sha256} if network.generator_sha256 else {})


def pick_device(name: str) -> str:
    """``name`` itself, or for ``auto`` a CUDA device if there is one, else the CPU.

    Raises:
        UsageError: This machine, or this build of PyTorch, has no such device.
    """
    usable = {"cpu": True, "cuda": torch.cuda.is_available()}  # MPS lacks 3-D grid sampling
    if name == "auto":
        return "cuda" if usable["cuda"] else "cpu"
    if not usable.get(name, False):
        raise UsageError(
            f"there is no device {name!r} here", f"use auto or {', '.join(n for n, ok in usable.items() if ok)}"
        )
    return name


def _read(fixed: ImageLike, moving: ImageLike, labels: ImageLike | None) -> tuple[Image, Image, Image | None]:
    """Side by side: decompression leaves the interpreter free."""
    with ThreadPoolExecutor(3, thread_name_prefix="read") as pool:
        images = [pool.submit(load_image, fixed), pool.submit(load_image, moving)]
        labels_too = None if labels is None else pool.submit(load_labels, labels)
        return images[0].result(), images[1].result(), None if labels_too is None else labels_too.result()


def _resolved(precision: str, device: str) -> str:
    """``auto`` as the number format that `Model.predict` takes it for; names that do not exist are left to it."""
    if precision != "auto":
        return precision
    return "bf16" if computes_in_bf16(torch.device(device)) else "fp32"


def _transform(fixed: Conformed, moving: Conformed, field: Tensor) -> Transform:
    """The map of a field, split into the affine map nearest to it over the fixed foreground and the rest."""
    d, h, w = field.shape[2:]
    shape = (d, h, w)
    matrix = _nearest_affine(field, F.adaptive_avg_pool3d(fixed.mask, shape))
    # x + u(x) = M (x + r(x))
    back = torch.linalg.inv(matrix)
    rest = torch.einsum("ij,bjdhw->bidhw", back[:3, :3].float(), field) + affine_field(back[None].float(), shape)
    coarse_to_full = fixed.grid.world_to_index @ fixed.grid.resized(shape).affine
    affine_vox = coarse_to_full @ matrix.numpy() @ np.linalg.inv(coarse_to_full)
    return Transform.from_field(fixed.grid, moving.grid, rest, affine_vox)


def _nearest_affine(field: Tensor, weight: Tensor) -> Tensor:
    """4×4 float64 in the field's voxels; the identity where a wild field leaves none that can be inverted well."""
    matrix = torch.eye(4, dtype=torch.float64)
    if bool(torch.isfinite(field).all()) and float(weight.sum()) > 0:
        matrix[:3] = fit_affine(field, weight)[0].double()
    singular = torch.linalg.svdvals(matrix[:3, :3])
    sound = float(singular.min()) > 0.2 and float(singular.max()) < 5 and float(torch.linalg.det(matrix)) > 0
    return matrix if sound else torch.eye(4, dtype=torch.float64)


def _points_within(points: Points | np.ndarray, moving: Image) -> Points:
    """The points, some of them inside the moving image.

    Raises:
        InputError: None is.
    """
    points = points if isinstance(points, Points) else Points(np.asarray(points, np.float64))
    index = moving.grid.to_index(points.positions_mm)
    outside = ((index < -0.5) | (index > np.array(moving.grid.shape) - 0.5)).any(-1)
    name = points.path or "the points"
    if outside.all():
        raise InputError(
            f"{name}: no point lies in {moving.name}", "give world mm, RAS+ (ITK and ANTs write LPS: x and y negated)"
        )
    if outside.any():
        warnings.warn(f"{name}: {outside.sum()} of {outside.size} points lie outside {moving.name}", stacklevel=3)
    return points
