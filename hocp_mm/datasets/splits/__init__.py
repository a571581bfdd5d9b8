"""Parts and folds that keep people together."""
