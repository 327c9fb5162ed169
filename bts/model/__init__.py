"""What travels in a model file: weights, networks, targets, normalisation."""
