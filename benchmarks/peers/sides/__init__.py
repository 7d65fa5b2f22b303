"""One file a side; each has ``run(options, measured)``."""
