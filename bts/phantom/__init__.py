"""Synthetic BraTS-like cases."""
