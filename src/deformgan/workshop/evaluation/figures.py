"""The figures of the comparison, from one place; each is made and documented in the module it comes from."""

from deformgan.workshop.evaluation.charts import Study, accuracy_time_figure, robustness_figure, study_figure
from deformgan.workshop.evaluation.learning_curves import training_figure
from deformgan.workshop.evaluation.panels import Panel, comparison_figure, slice_through, synthesis_figure, tumour_mask
from deformgan.workshop.evaluation.style import method_styles
from deformgan.workshop.evaluation.synthesis import measure_synthesis

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
