"""Tables, curves and one self-contained page of a comparison directory."""
