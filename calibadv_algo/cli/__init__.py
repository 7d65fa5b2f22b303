"""The commands of `calibadv`: the composition root, where environment and algorithms are joined."""
