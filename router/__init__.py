"""edgelattice: what to do with what is known."""
