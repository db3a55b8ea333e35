"""The commands of `edgelattice`, one a module, each loaded when it is called. They alone, and the demo, print."""
