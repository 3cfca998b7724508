"""Side-by-side runs against peers and limits, each ending in one JSON line of its figures."""
