"""What is measured between models, and how."""
