"""Turns a comparison directory into tables, curves and one self-contained page."""
