"""A run: its folder, its identity, its history of revisions."""
