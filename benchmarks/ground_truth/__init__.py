"""The measurements of docs/credit: what is run, what is kept of it, and the page."""
