"""From bytes to exact pictures: videos, image files and packs of crops."""
