"""The environments inside other people's code; importing this package imports none of it."""
