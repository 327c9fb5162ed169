"""Labelmaps against ground truth, as numbers and tables."""
