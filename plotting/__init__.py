"""The figures panel by panel: style.py is their common look, one.py draws an activation, several.py compares them."""
