"""Policy objectives, their formulas and their corrections."""
