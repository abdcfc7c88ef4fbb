"""Did it work, and how well where: evidence, verdict and expected error of one registration."""

from deformgan.quality.assess import Evidence, assess, error_map, examine, judge
from deformgan.quality.causes import explained
from deformgan.quality.measures import inverse_residual
from deformgan.quality.result import Quality

__all__ = ["Evidence", "Quality", "assess", "error_map", "examine", "explained", "inverse_residual", "judge"]
