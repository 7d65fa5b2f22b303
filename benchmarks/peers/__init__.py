"""Speed beside other libraries: pairs of processes that take turns, CPU seconds, one thread."""
