"""What makes a site: its configuration, its keys, its place on disk."""
