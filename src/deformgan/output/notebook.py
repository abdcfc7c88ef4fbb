"""A registration in a notebook: the page fragment that a cell shows, verdict, figures and pictures."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from deformgan.output.overview import draw_registration

if TYPE_CHECKING:
    from deformgan.output.registration import Registration

_DPI = 80


def html(found: Registration) -> str:
    """Verdict, figures and, where the registration carries its pair, pictures; whatever comes from files is escaped."""
    quality = found.quality
    because = "".join(f"<li>{escape(reason)}</li>" for reason in (*quality.reasons, *quality.doubts))
    rows = {
        "similarity": f"{quality.similarity_before:.3f} → {quality.similarity_after:.3f}",
        "displacement": f"mean {quality.displacement_mean_mm:.1f} mm, max {quality.displacement_max_mm:.1f} mm",
        "folding": f"{quality.folding_percent:.3f} %",
    }
    table = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows.items())
    picture = ""
    if found.pair is not None:
        buffer = io.BytesIO()
        figure = draw_registration(found)
        figure.savefig(buffer, format="png", dpi=_DPI, facecolor=figure.get_facecolor())
        address = base64.b64encode(buffer.getvalue()).decode("ascii")
        picture = f'<img alt="the registration in slices" src="data:image/png;base64,{address}">'
    return f"<div><b>deformgan: {quality.verdict}</b><ul>{because}</ul><table>{table}</table>{picture}</div>"
