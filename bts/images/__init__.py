"""Bytes ↔ voxels on the canonical grid. Knows files and grids, no case."""
