"""execute: runs models. Session (engine and onnxruntime together) and the integer oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantkit.execute.session import Session

__all__ = ["Session"]


def __getattr__(name: str) -> Any:
    if name == "Session":
        from quantkit.execute.session import Session

        return Session
    raise AttributeError(f"module 'quantkit.execute' has no attribute {name!r}")
