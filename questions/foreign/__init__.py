"""Models and predictions from elsewhere, and ours, side by side: what `compare.py` is made of."""
