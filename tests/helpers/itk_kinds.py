"""One transform of each kind of matrix that ITK has, by its parameters in ITK's order; millimetres and radians, LPS."""

from __future__ import annotations

CENTRE = (10.0, -20.0, 5.0)
VERSOR, SHIFT, SCALE = [0.1, -0.2, 0.15], [3.0, 4.0, -5.0], [1.1, 0.9, 1.2]
KINDS = {
    "AffineTransform": [1.1, 0.1, 0, -0.1, 0.9, 0.05, 0.02, 0, 1.05, *SHIFT],
    "Euler3DTransform": [0.3, -0.2, 0.15, *SHIFT],
    "VersorTransform": VERSOR,
    "VersorRigid3DTransform": [*VERSOR, *SHIFT],
    "Similarity3DTransform": [*VERSOR, *SHIFT, 1.3],
    "ScaleVersor3DTransform": [*VERSOR, *SHIFT, *SCALE],
    "ScaleSkewVersor3DTransform": [*VERSOR, *SHIFT, *SCALE, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06],
    "ComposeScaleSkewVersor3DTransform": [*VERSOR, *SHIFT, *SCALE, 0.01, 0.02, 0.03],
    "ScaleTransform": SCALE,
    "TranslationTransform": SHIFT,
}
