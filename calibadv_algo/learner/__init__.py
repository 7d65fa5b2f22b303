"""One update of the weights: policy, critic, optimiser, ranks, checkpoints."""
