"""Commands beside training and analysis."""
