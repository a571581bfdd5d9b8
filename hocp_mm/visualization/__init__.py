"""Pictures and annotated videos of affect over time and in the plane."""

from hocp_mm.visualization.affect_plane import plot_affect_plane
from hocp_mm.visualization.overlay import draw_affect, write_overlay
from hocp_mm.visualization.timeline_plot import plot_timeline

__all__ = ["draw_affect", "plot_affect_plane", "plot_timeline", "write_overlay"]
