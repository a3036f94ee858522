"""A plan, a receipt and example crops -> report.html, one self-contained page for a reader."""

from nmcompile.report.crops import Chosen, Example
from nmcompile.report.html import write_report

__all__ = ["Chosen", "Example", "write_report"]
