"""Side-by-side runs against peers: `python -m benchmarks.NAME`; each ends with one line of JSON."""
