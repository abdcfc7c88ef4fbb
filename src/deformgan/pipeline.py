"""The product, on one page: two images in; a moved image, a transform, a verdict and a record out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deformgan.align.handedness import mirrored_agreement
from deformgan.align.options import Options
from deformgan.align.start import Start, agreement_elsewhere, find_start
from deformgan.io.points import Points
from deformgan.models.brain import brains_of
from deformgan.models.device import pick_device, pick_precision
from deformgan.models.load import DEFAULT_MODEL, Model, load_model
from deformgan.models.structures import structures_apart_mm
from deformgan.output.provenance import Progress, no_progress
from deformgan.output.registration import Registration
from deformgan.output.run import Run
from deformgan.preprocess.conform import WORKING_SHAPE, WORKING_SPACING, Pair, conform_pair
from deformgan.preprocess.finer import finer_pair
from deformgan.preprocess.input_warnings import pair_warnings
from deformgan.preprocess.one_mask import without_shared_border
from deformgan.preprocess.scan import Scan, read_pair
from deformgan.quality import Evidence, Quality, error_map, examine, explained, judge
from deformgan.refine.pair import Refined, refine_pair
from deformgan.refine.spread import Perturbed, perturbed
from deformgan.spatial.field import resize
from deformgan.spatial.native.threads import beside, kernels_first, one_thread
from deformgan.transforms.carried import Carried
from deformgan.transforms.compact import compact
from deformgan.transforms.of_field import transform_of_field
from deformgan.transforms.transform import Transform

if TYPE_CHECKING:
    from deformgan.io.image import ImageLike


@kernels_first()
def register(
    fixed: ImageLike | Scan,
    moving: ImageLike | Scan,
    *,
    fixed_mask: ImageLike | None = None,
    moving_mask: ImageLike | None = None,
    fixed_lesion: ImageLike | None = None,
    moving_lesion: ImageLike | None = None,
    moving_labels: ImageLike | None = None,
    moving_points: Points | np.ndarray | str | os.PathLike[str] | None = None,
    init: str | os.PathLike[str] | Transform | None = None,
    model: str | os.PathLike[str] | Model = DEFAULT_MODEL,
    options: Options | None = None,
    progress: Progress = no_progress,
    **changes: Any,
) -> Registration:
    """Align a moving image to a fixed one.

    Args:
        fixed, moving: Paths, nibabel images or `Image` objects, of any size, spacing and orientation; or a `Scan`
            without a mask, of which it is known already what it shows.
        fixed_mask, moving_mask: Not 0 where that image is to be used; the rest of it counts as background.
        fixed_lesion, moving_lesion: Not 0 where that image has no counterpart in the other: nothing is compared there,
            and the map follows from what is around.
        moving_labels: A label map in the moving image's space, to be carried along.
        moving_points: Points in the moving image's space, to be carried along; (N, 3) world mm (RAS+).
        init: A map from fixed to moving to start from, linear or with a field; a file as `load_transform` takes it.
        model: Shipped weights by name, a folder of weights, or a loaded model, which stays on its device.
        options: How to register; default: `Options()`.
        progress: Called with the name of each stage as it begins.
        **changes: Single fields of `Options`, such as ``refine_steps=0``.

    Raises:
        UsageError: Unknown weights or options.
        InputError: An image or the weights cannot be used; the message says why and what to do about it.
    """
    options = _resolved(replace(options or Options(), **changes), model)
    run = Run(
        options, progress, fixed=fixed, moving=moving, fixed_mask=fixed_mask, moving_mask=moving_mask,
        fixed_lesion=fixed_lesion, moving_lesion=moving_lesion, moving_labels=moving_labels,
        moving_points=moving_points, init=init,
    )  # fmt: skip
    loaded = _loading(model, run)
    with run.stage("read"):  # image, foreground and lesion of either; of a head, its brain
        scan, other = _known(read_pair((fixed, fixed_mask, fixed_lesion), (moving, moving_mask, moving_lesion)), run)
        carried = Carried.read(other.original, moving_labels, moving_points)
    network = loaded()  # T, or None where the map is linear
    with run.stage("align"):
        start = find_start(scan, other, options.transform, init)  # fixed_to_moving, world mm: always a 4×4
    with run.stage("conform"):  # two tensors on working grids, and the way back
        shape, spacing = (network.grid_shape, network.spacing) if network else (WORKING_SHAPE, WORKING_SPACING)
        pair = conform_pair(scan, start.moving, start.fixed_to_moving, shape, spacing)
    run.warn(pair_warnings(pair, spacing))
    field, prediction, sides = torch.zeros(1, 3, *(n // 2 for n in shape)), None, None
    if network is not None:
        with run.stage("predict"):  # (1, 3, D/2, H/2, W/2), voxels of that grid
            field = prediction = pair.completed(network.predict(*pair.seen_tensors, options.precision).cpu())
        if options.refine_steps:
            with run.stage("refine"):
                refined = _refined(pair, prediction, (scan, start.moving), network, run)
                field, sides = pair.lesions.fill_harmonic(refined.field.cpu()), refined.sides
                run.settle(subject=refined.subject, refine_steps=refined.steps)
    with run.stage("transform"):  # world mm from here on
        inner = _mapped(pair, field, start, linear=network is None)
        found = compact(start.completed(inner), scan.original.grid, pair.fixed.mask[0, 0].numpy(), pair.fixed.grid)
        moved, carried = found.apply(other.original, scan.original.grid), carried.through(found, scan.original.grid)
    again = _again(pair, prediction, network, run) if options.uncertainty else None
    with run.stage("assess"):
        apart = partial(structures_apart_mm, scan.image, other.image, found.map_points, options.device)
        evidence, quality = _assessed(pair, (field, prediction), again, (scan, start, inner), sides, apart, run)
        doubt = error_map(evidence, moved.grid) if options.uncertainty and evidence is not None else None
    return Registration(
        moved=moved, transform=found, quality=quality, provenance=run.record(network, pair.fixed.grid),
        moving_grid=other.original.grid, moved_labels=carried.labels, moved_points=carried.points,
        pair=(scan.original, other.original), uncertainty=doubt,
    )  # fmt: skip


def _resolved(options: Options, model: str | os.PathLike[str] | Model) -> Options:
    """With the device and the precision that ``auto`` stands for; a loaded model stays where it is."""
    device = str(model.device) if isinstance(model, Model) else pick_device(options.device)
    return replace(options, device=device, precision=pick_precision(options.precision, device))


def _known(pair: tuple[Scan, Scan], run: Run) -> tuple[Scan, Scan]:
    """The brains of heads, and no border where one mask cut both images."""
    scans, found = brains_of(dict(zip(("fixed", "moving"), pair, strict=True)), run.options)
    for role, brain in found.items():
        run.warn([f"the {role} image shows a head: its brain ({brain.litres:.2f} l) is what is registered"])
    run.settle(**({"brains": {role: asdict(brain) for role, brain in found.items()}} if found else {}))
    one, other = without_shared_border(scans["fixed"], scans["moving"])
    run.settle(**({} if one.within is None else {"one_mask": True}))
    return one, other


def _loading(model: str | os.PathLike[str] | Model, run: Run) -> Callable[[], Model | None]:
    """The weights begin to be loaded, beside the images; what is returned waits for them."""
    if run.options.is_linear:
        return lambda: None
    begun = beside(lambda: model if isinstance(model, Model) else load_model(model, run.options.device))

    def loaded() -> Model:
        with run.stage("load model"):
            return begun()

    return loaded


def _refined(pair: Pair, field: Tensor, scans: tuple[Scan, Scan], network: Model, run: Run) -> Refined:
    """The field after optimisation on the run's device."""
    options, device = run.options, run.options.device
    a, b = pair.seen_tensors
    fixed, moving, mask, start = (one.to(device) for one in (*pair.compared_tensors, pair.fixed.mask, field))
    return refine_pair(
        fixed, moving, start, mask=mask, lesions=pair.not_compared.to(device), steps=options.refine_steps,
        subject=options.subject, smoothness=options.smoothness, fine=lambda: finer_pair(scans, pair),
        mirrored=lambda: network.predict(a, b.flip(2), options.precision), progress=run.step,
    )  # fmt: skip


def _again(pair: Pair, field: Tensor | None, network: Model | None, run: Run) -> tuple[Tensor, Perturbed | None] | None:
    """For the error's map: T's field with the images exchanged, and refinements under small perturbations.

    Args:
        field: T's; None without T.
    """
    if field is None or network is None:
        return None
    options, device = run.options, run.options.device
    with run.stage("perturb"):
        a, b = pair.seen_tensors
        backward = network.predict(b, a, options.precision)
        if not options.refine_steps:
            return backward.cpu(), None
        fixed, moving, start = (one.to(device) for one in (*pair.compared_tensors, field))
        masks = pair.fixed.mask.to(device), pair.moving.mask.to(device)
        found = perturbed(
            fixed, moving, start, backward, masks=masks, lesions=pair.not_compared.to(device),
            steps=options.refine_steps, subject=run.settled["subject"],
        )  # fmt: skip
        return backward.cpu(), found.cpu()


def _mapped(pair: Pair, field: Tensor, start: Start, *, linear: bool) -> Transform:
    """The map from fixed to ``start.moving`` in world mm; of a field, its affine part is that of the foreground."""
    if linear:
        return Transform(start.fixed_to_moving)
    return transform_of_field(pair.fixed.grid, pair.moving.grid, field, pair.fixed.mask)


def _assessed(
    pair: Pair,
    fields: tuple[Tensor, Tensor | None],
    again: tuple[Tensor, Perturbed | None] | None,
    placed: tuple[Scan, Start, Transform],
    sides: tuple[float, float] | None,
    apart_mm: Callable[[], float | None],
    run: Run,
) -> tuple[Evidence | None, Quality]:
    """What tells how well it went, and the verdict.

    Args:
        fields: The result, and T's own.
        again: What `_again` found, if the expected error is wanted.
        placed: The fixed scan, where the moving one starts, and the map between them.
        sides: How well the moving image and its mirror image matched in refinement, if that was asked.
        apart_mm: Gives how far apart the structures lie that are seen in both images.
    """
    (field, prediction), (scan, start, found), (backward, around) = fields, placed, again or (None, None)
    mirrored = beside(lambda: mirrored_agreement(scan, start.moving, start.fixed_to_moving))
    if prediction is not None:  # the verdict was calibrated at no finer resolution than T's
        field = resize(field, tuple(map(min, field.shape[2:], prediction.shape[2:])))
    evidence = examine(pair.fixed, pair.moving, field, backward, pair.excluded, around)
    subject = run.settled.get("subject", run.options.subject)
    with one_thread():
        quality = judge(evidence, subject=subject, apart_mm=apart_mm if subject == "other" else None)
        quality = quality.with_sides(mirrored(), sides)
        searched = run.options.transform != "deform"
        if not searched:
            quality = quality.with_place(*agreement_elsewhere(scan, start.moving, found.affine))
        return evidence, explained(quality, scan, start.moving, subject=subject, searched=searched)
