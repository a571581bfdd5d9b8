"""Pictures and annotated videos of affect over time."""

from hocp_mm.visualization.contact_sheet import ContactSheet, SheetClip, draw_contact_sheet
from hocp_mm.visualization.overlay import draw_affect, write_overlay
from hocp_mm.visualization.timeline_plot import plot_timeline

__all__ = ["ContactSheet", "SheetClip", "draw_affect", "draw_contact_sheet", "plot_timeline", "write_overlay"]
