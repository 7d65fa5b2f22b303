"""Environments of pages: search, open, find and answer."""
