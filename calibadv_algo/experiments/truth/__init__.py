"""Ground truth for credit: what every turn was worth, measured, and estimators held against it."""
