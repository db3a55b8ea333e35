"""What this node sees of the regions: probes, grades, ejections."""
