"""Slices of a case as Parquet, and what a folder of such files holds."""
