"""edgelattice: what is known, and how it spreads."""
