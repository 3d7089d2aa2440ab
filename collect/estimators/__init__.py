"""Estimators, as of scikit-learn: fitted by a seed, asked for probabilities, which become logits; and as runs of a fleet."""
