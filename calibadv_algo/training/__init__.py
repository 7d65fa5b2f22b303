"""The training loop: settings, collection, estimation, metrics and the folder of a run."""
