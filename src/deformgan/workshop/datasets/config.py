"""Which images are used, and on which grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from deformgan.errors import UsageError

Part = Literal["train", "test", "all"]


@dataclass(frozen=True)
class DataConfig:
    """Where training pairs come from.

    Args:
        root: Folder that the other paths are relative to, or a CSV file of pairs.
        patients: Folders with co-registered ``CONTRAST.nii.gz`` files of one patient each, or names of patients found
            in ``root``. ``["*"]``, and nothing where there are no label maps either: all of ``part``.
        layout: How ``root`` is laid out (see `find_patients`).
        part: Which patients found are meant, by `split`.
        held_out: People of the train part kept for the validation pass where that names none.
        split_seed: Of the split.
        contrasts: File stems to use, and how often each is drawn (relative weights).
        label_maps: Whole-head label maps (FreeSurfer ids) from which images are synthesised.
        variants: Images synthesised of each label map: T1-like, T2-like, then random contrasts in turn.
        synthetic: Share of pairs drawn from label maps.
        direction: Contrasts of the fixed and the moving image where pairs go one way only, as a generator needs it;
            default: any contrast onto any other.
        realign: Whether each contrast is first moved along z onto the patient's first one (sub-slice offsets).
        cache: Folder for the conformed images; made at the first run.
        shape: Working grid.
        spacing: Its voxel size in millimetres.
    """

    root: str = "."
    patients: tuple[str, ...] = ()
    layout: str = "auto"
    part: Part = "train"
    held_out: int = 0
    split_seed: int = 0
    contrasts: dict[str, float] = field(default_factory=lambda: {"t1": 1.0, "t2": 1.0})
    label_maps: tuple[str, ...] = ()
    variants: int = 8
    synthetic: float = 0.3
    direction: tuple[str, ...] = ()
    realign: bool = True
    cache: str = "runs/cache"
    shape: tuple[int, int, int] = (112, 128, 96)
    spacing: float = 1.5

    def __post_init__(self) -> None:
        if not all(weight > 0 for weight in self.contrasts.values()):
            raise UsageError("a contrast is drawn with a weight above 0", "leave out contrasts that are not to be used")
        if self.direction and (len(self.direction) != 2 or not set(self.direction) <= set(self.contrasts)):
            raise UsageError(
                f"{self.direction} is no direction", "name two of the contrasts: the fixed and the moving image's"
            )
        if self.variants < 2:
            raise UsageError("a pair needs two images of a label map", "set variants to 2 or more")
        if any(n < 16 or n % 4 for n in self.shape) or self.spacing <= 0:
            raise UsageError(
                f"there can be no working grid {self.shape} at {self.spacing} mm", "use multiples of 4 from 16 on"
            )
