"""Statistics, tables, figures and the page of a study; `figure` draws one of its figures for a script to change."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reports.from_frame import figure

__all__ = ["figure"]


def __getattr__(name: str) -> Any:
    if name != "figure":  # imported on first use, so that the command line starts quickly
        raise AttributeError(f"module 'reports' has no attribute {name!r}")
    return import_module("reports.from_frame").figure
