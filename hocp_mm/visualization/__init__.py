"""Pictures and annotated videos of affect over time."""

from hocp_mm.visualization.overlay import draw_affect, write_overlay
from hocp_mm.visualization.timeline_plot import plot_timeline

__all__ = ["draw_affect", "plot_timeline", "write_overlay"]
