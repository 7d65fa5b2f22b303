"""Rollouts: engines that sample turns, slots that play episodes, and the driver between them."""
