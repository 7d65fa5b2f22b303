"""Retrieval over HTTP: client, server, wire formats and simulated search."""
