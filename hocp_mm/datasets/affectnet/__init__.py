"""AffectNet: single images, in both releases."""
