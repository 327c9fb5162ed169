"""Scores and cases as pages and pictures."""
