"""An engine folder + images -> restored images, without torch."""

from nmcompile.runtime.engine import Engine, load
from nmcompile.runtime.tiling import TilePlan

__all__ = ["Engine", "TilePlan", "load"]
