"""What a data set knows about its clips, and the base that keeps it."""
