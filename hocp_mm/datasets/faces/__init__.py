"""From faces to crops: detection, tracks, boxes, and the one rule that cuts by them."""
