"""Further questions, a folder each with all of its own."""
