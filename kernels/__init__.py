"""Kernels compiled here, and what loads them."""
