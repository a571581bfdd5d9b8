"""Pictures and annotated videos of affect over time and in the plane, and contact sheets of clips."""

from hocp_mm.visualization.affect_marks import FaceMark, face_marks
from hocp_mm.visualization.affect_plane import plot_affect_plane
from hocp_mm.visualization.contact_sheet import ContactSheet, SheetClip, draw_contact_sheet
from hocp_mm.visualization.overlay import OverlayWriter, write_overlay
from hocp_mm.visualization.timeline_plot import plot_timeline

__all__ = [
    "ContactSheet",
    "FaceMark",
    "OverlayWriter",
    "SheetClip",
    "draw_contact_sheet",
    "face_marks",
    "plot_affect_plane",
    "plot_timeline",
    "write_overlay",
]
