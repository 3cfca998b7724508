"""A local page and JSON API to try checkpoints: bounded uploads, held in memory alone, on loopback by default."""
