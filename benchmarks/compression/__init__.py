"""What compression does to networks that were really trained: weights from registry packages, judged on photographs."""
