"""MR-like images out of label maps: T1, T2, FLAIR and contrast-enhanced T1, or a random contrast.

A label becomes a tissue (proton density, T1, T2 at about 3 tesla); the textbook signal equations of a drawn protocol
(repetition, echo and inversion time) turn tissues into intensities. Texture at two scales and a smooth bias field are
made on coarse grids and enlarged, so that one volume of 112×128×96 takes some tens of milliseconds on one thread.
Ids are those of FreeSurfer; 100 is tumour core, 101 oedema. 0 is background and stays exactly 0.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from deformgan.workshop.simulation.draws import normal, number, uniform

Modality = Literal["t1", "t2", "flair", "t1gd", "random"]
MODALITIES: tuple[str, ...] = get_args(Modality)

CSF = 24
TUMOUR_CORE = 100
TUMOUR_OEDEMA = 101

# tissue: proton density (water = 1), T1 ms, T2 ms, T1 ms after gadolinium.
# Rounded from the usual 3 T literature; vessels have a short apparent T2 for their flow void.
_TISSUES: dict[str, tuple[float, float, float, float]] = {
    "white": (0.70, 850, 70, 820),
    "callosum": (0.69, 800, 67, 780),
    "cortex": (0.82, 1400, 96, 1330),
    "cerebellar_cortex": (0.82, 1420, 98, 1330),
    "thalamus": (0.76, 1150, 78, 1110),
    "caudate": (0.80, 1330, 86, 1280),
    "putamen": (0.79, 1250, 78, 1210),
    "pallidum": (0.74, 1000, 56, 980),
    "hippocampus": (0.83, 1450, 102, 1400),
    "ventral_diencephalon": (0.74, 1050, 70, 1020),
    "stem": (0.72, 970, 76, 940),
    "fluid": (1.00, 4100, 1700, 4000),
    "hypointensity": (0.80, 1300, 135, 1250),
    "choroid": (0.92, 2000, 210, 650),
    "vessel": (0.75, 1750, 42, 330),
    "core": (0.90, 1900, 165, 620),
    "oedema": (0.86, 1520, 138, 1500),
    "bone": (0.12, 900, 30, 850),
    "soft": (0.75, 1200, 55, 1100),
}
_LEFT: dict[str, tuple[int, ...]] = {
    "white": (2, 7, 85),
    "callosum": (192, 250, 251, 252, 253, 254, 255),
    "cortex": (3, 19, 20),
    "cerebellar_cortex": (8,),
    "thalamus": (9, 10),
    "caudate": (11,),
    "putamen": (12,),
    "pallidum": (13,),
    "hippocampus": (17, 18, 26, 27),
    "ventral_diencephalon": (28,),
    "stem": (16, 170, 171, 172, 173, 174, 175),
    "fluid": (4, 5, 14, 15, CSF, 72, 75, 76, 213, 221),
    "hypointensity": (25, 77, 78, 79),
    "choroid": (31, 136, 137, 163, 164),
    "vessel": (30,),
    "core": (TUMOUR_CORE,),
    "oedema": (TUMOUR_OEDEMA,),
    "bone": (165, 502, 511, 514),
    "soft": (258, 259, 516, 530),
}
_RIGHT_TO_LEFT = {
    **{41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 48: 9, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18},
    **{55: 19, 56: 20, 57: 25, 58: 26, 59: 27, 60: 28, 62: 30, 63: 31},
}
_NAMES = list(_TISSUES)
_TISSUE_OF = {i: _NAMES.index(name) for name, ids in _LEFT.items() for i in ids}
_TISSUE_OF |= {right: _TISSUE_OF[left] for right, left in _RIGHT_TO_LEFT.items()}
_FLUID = _NAMES.index("fluid")
_VARIATION = 0.035  # standard deviation of one label's mean between patients, relative
_HEAD = ("bone", "soft")  # tissues outside the brain
_BRAIN_LIMIT = 100  # unlisted ids from here on are taken for head


def synthesise(
    labels: Tensor,
    modality: str,
    generator: torch.Generator,
    *,
    texture: float = 0.03,
    bias: float = 0.12,
    partial_volume: float = 0.45,
) -> Tensor:
    """One random image of a label map.

    Args:
        labels: (D, H, W), integer FreeSurfer-like ids; an id nobody listed gets a drawn tissue of its own.
        modality: ``t1``, ``t2``, ``flair``, ``t1gd`` or ``random`` (every tissue a drawn grey value).
        generator: Source of all randomness; the same state gives the same image.
        texture: Standard deviation of the within-label texture, relative to the intensity.
        bias: Standard deviation of the logarithm of the bias field.
        partial_volume: Gaussian σ in voxels that mixes neighbouring tissues, 0 for hard edges.

    Returns:
        (1, 1, D, H, W) float32 in [0, 1] on the device of ``labels``: background 0, the 99.8th percentile of the
        foreground 1.

    Raises:
        ValueError: ``modality`` is none of `MODALITIES`, or ``labels`` is not three-dimensional.
    """
    if modality not in MODALITIES:
        raise ValueError(f"modality is one of {', '.join(MODALITIES)}, not {modality!r}")
    if labels.ndim != 3:
        raise ValueError(f"labels are (D, H, W), these have shape {tuple(labels.shape)}")
    flat = labels.reshape(-1)
    means = label_means(int(flat.max()), modality, generator).to(labels.device)
    image = means.index_select(0, flat.long()).view(1, 1, *labels.shape)
    if partial_volume > 0:
        image = _mix_neighbours(image, partial_volume)
    image = image * _modulation(tuple(labels.shape), texture, bias, generator).to(labels.device)
    return normalise(image.clamp_(min=0), (labels > 0)[None, None])


def normalise(image: Tensor, mask: Tensor, percentile: float = 99.8, most: int = 200_000) -> Tensor:
    """``image`` within ``mask``, divided by a percentile of its values there and clipped to [0, 1]; 0 outside.

    The percentile is taken over about ``most`` voxels, evenly spread, where there are many more.
    """
    inside = image[mask]
    if inside.numel() == 0:
        return torch.zeros_like(image)
    sample = inside[:: max(1, inside.numel() // most)]
    top = sample.kthvalue(max(1, round(sample.numel() * percentile / 100))).values
    return (image * mask / top.clamp(min=1e-6)).clamp_(0, 1)


def label_means(largest: int, modality: str, generator: torch.Generator) -> Tensor:
    """Mean intensity of every id up to ``largest`` (of at least the listed ones) for one drawn patient and scan."""
    size = max(largest, *_TISSUE_OF) + 1
    tissue = torch.tensor([_TISSUES[name] for name in _NAMES])
    drawn = uniform(generator, size).cpu() if modality == "random" else None
    weight = uniform(generator, size).cpu()[:, None]  # unlisted: somewhere between cortex and fluid
    properties = torch.lerp(tissue[_NAMES.index("cortex")], tissue[_FLUID], weight)
    ids = torch.tensor(list(_TISSUE_OF))
    properties[ids] = tissue[torch.tensor(list(_TISSUE_OF.values()))]
    means = _random_contrast(drawn) if drawn is not None else _signal(properties, modality, generator)
    spread = 1 + _VARIATION * normal(generator, size).cpu()
    means = means * spread.clamp(0.85, 1.15)
    right, left = (torch.tensor(side) for side in zip(*_RIGHT_TO_LEFT.items(), strict=True))
    means[right] = means[left]  # one patient's halves look alike
    means[0] = 0
    return means


def _random_contrast(drawn: Tensor) -> Tensor:
    """A grey value for every id, where ids of one tissue share most of it."""
    means = 0.05 + 0.95 * drawn
    for i, tissue in _TISSUE_OF.items():
        means[i] = 0.85 * means[_LEFT[_NAMES[tissue]][0]] + 0.15 * means[i]
    return means


def _between(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * number(generator)


def _signal(properties: Tensor, modality: str, generator: torch.Generator) -> Tensor:
    """Signal magnitude of tissues ``properties`` (N, 4) under a drawn protocol, (N,); white matter or fluid is 1."""
    density, t1, t2, t1_gadolinium = properties.unbind(1)
    if modality == "t2":
        repetition, echo = _between(generator, 3500, 6500), _between(generator, 80, 115)
        signal = density * (1 - torch.exp(-repetition / t1)) * torch.exp(-echo / t2)
        return signal / signal[CSF]
    if modality == "flair":
        repetition, echo = _between(generator, 8000, 10500), _between(generator, 85, 120)
        null = 0.69 * 4100 * (1 - 0.16 * (10500 - repetition) / 2500)  # the inversion time that nulls fluid
        recovery = _inversion(t1, null * _between(generator, 0.94, 1.0), repetition)
        signal = density * recovery.abs() * torch.exp(-echo / t2)
        return signal / (1.5 * signal[_LEFT["white"][0]])
    relaxation = t1_gadolinium if modality == "t1gd" else t1
    prepared = _inversion(relaxation, _between(generator, 1050, 1250), _between(generator, 1900, 2500)).clamp(min=0)
    saturated = 1 - torch.exp(-_between(generator, 450, 650) / relaxation)
    white = _LEFT["white"][0]
    # clinical T1 lies between an inversion-prepared gradient echo and a plain spin echo
    share = _between(generator, 0.25, 1.0)
    signal = share * prepared / prepared[white] + (1 - share) * saturated / saturated[white]
    return density * signal * torch.exp(-12 / t2) / density[white]


def _inversion(t1: Tensor, inversion: float, repetition: float) -> Tensor:
    """Longitudinal magnetisation after a periodic inversion pulse, in units of equilibrium (may be negative)."""
    return 1 - 2 * torch.exp(-inversion / t1) / (1 + torch.exp(-repetition / t1))


def coarse_noise(shape: tuple[int, ...], every: float, generator: torch.Generator) -> Tensor:
    """Smooth noise of unit deviation with structures of about ``every`` voxels, (1, 1, D, H, W)."""
    size = [max(2, round(n / every)) for n in shape]
    noise = normal(generator, 1, 1, *size)
    noise = F.interpolate(noise, size=tuple(shape), mode="trilinear", align_corners=False)
    return noise / noise.std().clamp(min=1e-6)


def _modulation(shape: tuple[int, ...], texture: float, bias: float, generator: torch.Generator) -> Tensor:
    """What the ideal image is multiplied with: bias times texture at two scales, (1, 1, D, H, W)."""
    middle = tuple(max(2, round(n / 5)) for n in shape)
    log = bias * coarse_noise(middle, 6.5, generator).clamp(-2, 2)  # bias: structures of some 30 voxels
    log = log + texture * coarse_noise(middle, 1, generator)
    log = F.interpolate(log, size=shape, mode="trilinear", align_corners=False)
    return log.add_(coarse_noise(shape, 2, generator), alpha=texture).exp_()


def _mix_neighbours(image: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian of ``sigma`` voxels cut at ±1 voxel (±2 beyond σ = 0.7), border replicated."""
    radius = 1 if sigma <= 0.7 else 2
    offsets = range(-radius, radius + 1)
    weights = [float(np.exp(-0.5 * (k / sigma) ** 2)) for k in offsets]
    weights = [w / sum(weights) for w in weights]
    for axis in (2, 3, 4):
        n = image.shape[axis]
        pad = [0] * 6
        pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = radius
        padded = F.pad(image, pad, mode="replicate")
        out = padded.narrow(axis, 0, n) * weights[0]
        for k in range(1, 2 * radius + 1):
            out.add_(padded.narrow(axis, k, n), alpha=weights[k])
        image = out
    return image


def _is_brain(largest: int) -> np.ndarray:
    """For every id up to ``largest``, whether it belongs to the brain itself (fluid around it does not)."""
    table = np.zeros(max(largest, *_TISSUE_OF) + 1, bool)
    table[1:_BRAIN_LIMIT] = True
    for i, tissue in _TISSUE_OF.items():
        table[i] = _NAMES[tissue] not in _HEAD
    table[CSF] = False
    return table


def is_head(labels: Tensor) -> bool:
    """Whether a label map shows more than a brain: skull, skin or other ids that are no brain tissue."""
    present = torch.unique(labels).cpu().numpy()
    present = present[(present > 0) & (present != CSF)]
    return bool(len(present)) and not _is_brain(int(present.max()))[present].all()


def depth(mask: np.ndarray) -> np.ndarray:
    """Distance in voxels of each voxel of a mask from what is outside it; 0 there."""
    return np.asarray(ndimage.distance_transform_edt(mask))


def strip_labels(labels: Tensor, spacing_mm: float = 1.0) -> tuple[Tensor, Tensor]:
    """The brain of a whole-head label map: what a skull-stripped scan shows of it.

    The mask is the closed brain (gaps up to some 10 mm closed, about 1 mm of rim kept); whatever lies in it without
    a brain label of its own (sulci, dura, skull base) becomes cerebrospinal fluid.

    Args:
        labels: (D, H, W), integer ids; tumour ids 100 and 101 count as brain.
        spacing_mm: Size of a voxel.

    Returns:
        Labels of the same shape and dtype, 0 outside the mask, and the boolean mask (D, H, W).

    Raises:
        ValueError: No voxel carries a brain label.
    """
    ids = labels.cpu().numpy()
    brain = _is_brain(int(ids.max()))[ids]
    if not brain.any():
        raise ValueError("no voxel of these labels is brain")
    margin = int(np.ceil(6 / spacing_mm)) + 1
    found = ndimage.find_objects(brain.astype(np.uint8))[0]
    box = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in found)
    near = np.pad(depth(~brain[box]) * spacing_mm <= 5, margin)
    closed = np.asarray(ndimage.binary_fill_holes(depth(near) * spacing_mm > 4.2))
    mask = np.zeros(ids.shape, bool)
    mask[box] = closed[(slice(margin, -margin),) * 3]
    stripped = torch.from_numpy(np.where(mask, np.where(brain, ids, CSF), 0).astype(ids.dtype))
    return stripped.to(labels.device), torch.from_numpy(mask).to(labels.device)
