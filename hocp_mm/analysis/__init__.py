"""Reports on networks: whether a transduction kept its promises, and what a network costs."""
