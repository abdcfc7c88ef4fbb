"""The figures of the comparison, from one place; each is made and documented in the module it comes from."""

from deformgan.evaluation.charts import Study, accuracy_time_figure, robustness_figure, study_figure
from deformgan.evaluation.courses import training_figure
from deformgan.evaluation.panels import Panel, comparison_figure, slice_through, synthesis_figure, tumour_mask
from deformgan.evaluation.style import method_styles
from deformgan.evaluation.synthesis import measure_synthesis

__all__ = [
    "Panel",
    "Study",
    "accuracy_time_figure",
    "comparison_figure",
    "measure_synthesis",
    "method_styles",
    "robustness_figure",
    "slice_through",
    "study_figure",
    "synthesis_figure",
    "training_figure",
    "tumour_mask",
]
