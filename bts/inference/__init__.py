"""Voxels of one case → labelmap, its confidence and its quality warnings."""
