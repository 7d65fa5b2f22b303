"""The words exchanged between environment and policy, and how they are read back. Pure."""
