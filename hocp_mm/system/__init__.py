"""What every program needs: a command line, processes, files and errors told in one line; no tensors, no pictures."""
