"""Memory and time of large runs, by arithmetic: nothing is loaded and nothing is measured."""
