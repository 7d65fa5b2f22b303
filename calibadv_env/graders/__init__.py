"""Rewards of answers beyond the string metrics: named graders, sums of them, and a user's own."""
