"""Sample pictures of a validation pass: what T does to held-out pairs, as one PNG."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.training.predict import stage_fields


def save_samples(path: Path, network: nn.Module, pairs: list[dict[str, Tensor]], scale: float) -> None:
    """Draw the middle slices of fixed, moving, moved and true images and of the field's error, a row for each pair."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 2.8 * len(pairs)), facecolor="black", layout="constrained")
    axes = figure.subplots(len(pairs), 5, squeeze=False)
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    for row, pair in zip(axes, pairs, strict=True):
        item = {k: v[None].to(device) for k, v in pair.items()}
        with torch.inference_mode():
            field = stage_fields(network, item["fixed"], item["moving"], scale)[-1]
            field = resize(field.float(), tuple(item["fixed"].shape[2:]))
            moved = warp(item["moving"], field)
            error = ((field - item["field"]).square().sum(1, keepdim=True).sqrt() * item["mask"]) / scale
        shown = [("fixed", item["fixed"]), ("moving", item["moving"]), ("moved", moved), ("true", item["moving_true"])]
        for axis, (title, image) in zip(row, [*shown, ("field error, voxels", error)], strict=True):
            middle = image[0, 0, :, :, image.shape[-1] // 2].T.cpu().numpy()
            if image is error:
                drawn = axis.imshow(middle, cmap="inferno", vmin=0, vmax=10, origin="lower")
                bar = figure.colorbar(drawn, ax=axis, fraction=0.05)
                bar.ax.tick_params(colors="white")
            else:
                axis.imshow(middle, cmap="gray", vmin=0, vmax=1, origin="lower")
            axis.set_title(title, color="white", fontsize=9)
            axis.set_axis_off()
    network.train(was_training)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
