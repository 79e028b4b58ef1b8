"""What a measurement was made on; no host name, user name or path."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from quantkit import __version__
from quantkit.cores import core_count

PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "openvino")


def cpu_name() -> str:
    """The processor's own name, or the architecture's where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    """Installed versions of what decides a result; a package that is not installed is left out."""
    versions = {"quantkit": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def describe_machine(isa: str, threads: int) -> dict[str, Any]:
    """The `machine` entry of every JSON report."""
    return {
        "cpu": cpu_name(),
        "cores": core_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "isa": isa,
        "threads": threads,
        "versions": package_versions(),
    }
