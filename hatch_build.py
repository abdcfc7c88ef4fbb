"""Builds the kernels in C when the package is built or installed; without a compiler the package is pure Python."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src") / "deformgan" / "spatial" / "native"


class NativeBuildHook(BuildHookInterface):
    """``deformgan/spatial/native/build.py`` at build time. An editable install gets the library beside the sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tag the wheel for this platform but for any Python: the library has nothing of Python in it."""
        if self.target_name != "wheel":
            return
        spec = importlib.util.spec_from_file_location("deformgan_native_build", Path(self.root) / FOLDER / "build.py")
        assert spec is not None
        assert spec.loader is not None
        native = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(native)
        try:
            library = native.build()
        except native.BuildError as error:
            self.app.display_warning(f"deformgan is installed without its compiled kernels, PyTorch is used: {error}")
            return
        build_data["artifacts"].append(f"/{FOLDER.as_posix()}/{library.name}")
        if version != "editable":
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"
