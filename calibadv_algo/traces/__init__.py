"""Reads the rollouts that other systems log, as trajectories that can be judged."""
