"""Add trials until the answer is decided."""
