"""``deformgan export``: ONNX Runtime computes what PyTorch does, the file explains itself, refusals leave nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import write_tiny_model

from deformgan.commands.main import main
from deformgan.errors import InputError, UsageError
from deformgan.models.load import DEFAULT_MODEL, load_model, save_model
from deformgan.networks import build

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from deformgan.models import onnx_export as export  # noqa: E402

SHAPE = (32, 32, 48)
GRID = {"shape": list(SHAPE), "spacing": 3.0}
KINDS = {
    "unet": ({"kind": "unet", "widths": [4, 8], "velocity": True, "scale": 2}, 1, (16, 16, 24)),
    "wide unet": ({"kind": "unet", "widths": [16, 32]}, 1, SHAPE),
    "unet, reduced": ({"kind": "unet", "widths": [4, 8]}, 0.5, (16, 16, 24)),
}


def saved(folder: Path, kind: str) -> tuple[Path, tuple[int, ...]]:
    """Weights whose field is voxels large, so that agreement means something.

    The shipped ones look once instead of five times, always with the same weights: the exporter takes as much longer.
    """
    if kind == "shipped":
        shipped = load_model(DEFAULT_MODEL)
        assert shipped.network.iterations > 1
        network = shipped.config["network"] | {"iterations": 1}
        save_model(folder, shipped.network, shipped.config | {"network": network, "grid": GRID})
        return folder, (16, 16, 24)
    network, scale, own = KINDS[kind]
    torch.manual_seed(3)
    module = build(network)
    *_, last = (m for m in module.modules() if isinstance(m, torch.nn.Conv3d) and m.out_channels == 3)
    torch.nn.init.normal_(last.weight, 0, 0.3)
    config = {"network": network, "grid": GRID, "scale": scale}
    save_model(folder, module, config)
    return folder, own


def run(path: Path, fixed: torch.Tensor, moving: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"fixed": fixed.numpy(), "moving": moving.numpy()})[0]


@pytest.mark.parametrize("kind", [pytest.param("shipped", marks=pytest.mark.slow), "unet", "unet, reduced"])
def test_onnx_runtime_computes_what_pytorch_does(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture) -> None:
    folder, own = saved(tmp_path / "model", kind)
    model = load_model(folder)
    fixed, moving = torch.rand(2, 1, 1, *SHAPE, generator=torch.Generator().manual_seed(9))
    before = model.predict(fixed, moving, "fp32").numpy()
    out = tmp_path / "t.onnx"
    assert main(["export", "--model", str(folder), "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_difference_voxels"] <= export.TOLERANCE_VOXELS
    got = run(out, fixed, moving)
    assert got.shape == (1, 3, *own)
    assert np.abs(before).max() > 0.5
    np.testing.assert_allclose(got, before, atol=export.TOLERANCE_VOXELS)
    # the exporter has left nothing in what the network keeps
    np.testing.assert_array_equal(model.predict(fixed, moving, "fp32").numpy(), before)
    file = onnx.load(out)
    onnx.checker.check_model(file)
    told = {entry.key: entry.value for entry in file.metadata_props}
    assert told["weights_sha256"] == model.sha256
    assert json.loads(told["output_shape"]) == list(own)
    assert json.loads(told["output_spacing_mm"]) == [6.0] * 3
    assert str(Path(export.__file__).parent).encode() not in out.read_bytes()


@pytest.mark.slow
def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path / "model", "wide unet")[0])
    half = tmp_path / "half.onnx"
    difference = export.export_onnx(model, half, fp16=True)["max_difference_voxels"]
    assert 0 < difference < 0.1
    whole = sum(weight.numel() * weight.element_size() for weight in model.network.parameters())
    assert half.stat().st_size < 0.75 * whole


def test_another_shape(tmp_path: Path) -> None:
    record = export.export_onnx(
        load_model(saved(tmp_path / "model", "unet, reduced")[0]), tmp_path / "t.onnx", shape=(16, 32, 32)
    )
    assert json.loads(record["output_shape"]) == [8, 16, 16]


@pytest.mark.parametrize(
    "words", [("t.txt",), ("none/t.onnx",), ("t.onnx", "--shape", "15", "16", "16"), ("t.onnx", "--model", "nowhere")]
)
def test_wrong_calls_leave_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert main(["export", "-o", str(tmp_path / words[0]), *words[1:]]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "t.onnx"
    out.write_text("mine")
    assert main(["export", "-o", str(out), "--model", str(write_tiny_model(tmp_path / "model"))]) == 2
    assert out.read_text() == "mine"


def test_a_graph_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_difference", lambda *_: float("nan"))
    model = load_model(saved(tmp_path / "model", "unet, reduced")[0])
    with pytest.raises(InputError, match="off"):
        export.export_onnx(model, tmp_path / "t.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(UsageError, match=r"needs no_such_package.*deformgan\[onnx\]"):
        export.export_onnx(load_model(write_tiny_model(tmp_path / "model")), tmp_path / "t.onnx")
