"""Dialects in which conversations are logged; each module declares its own in ``DIALECTS``."""
