"""What segment leaves in a bucket, and which labelmap is of which case."""
