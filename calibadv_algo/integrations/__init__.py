"""The algorithms inside other people's training code; importing this package imports none of it."""
