"""Machinery of both packages: checks of settings, files that appear whole. No domain words."""
