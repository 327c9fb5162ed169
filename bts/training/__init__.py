"""Shards → weights: what is trained on, how it is fed, the loop, its state."""
