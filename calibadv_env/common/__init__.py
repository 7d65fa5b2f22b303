"""Machinery of both packages: checks of settings, atomic files, HTTP. No domain words."""
