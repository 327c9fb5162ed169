"""A listing of files → cases, and one case → cropped voxels."""
