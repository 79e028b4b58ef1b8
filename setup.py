"""What pyproject.toml cannot say: the cffi extension that holds the engine, and the embedded model and data.

models/ and calib/ lie beside the package in the source tree; a built package carries their files in quantkit/_assets
(quantkit/report/assets.py finds both). An editable install uses the source tree.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ASSETS = [path for pattern in ("models/*.onnx", "calib/*.npz", "calib/*.toml") for path in sorted(Path().glob(pattern))]


class BuildWithAssets(build_py):
    """build_py that also copies ASSETS into the package."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, "quantkit", "_assets")
        self.mkpath(str(folder))
        for path in ASSETS:
            self.copy_file(str(path), str(folder / path.name))


setup(cffi_modules=["native/build_engine.py:ffibuilder"], cmdclass={"build_py": BuildWithAssets})
