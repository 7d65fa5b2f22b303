"""BM25: in memory, on disk and by other packages."""
