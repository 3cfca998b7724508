"""Scoring: embed once, score many tasks, with intervals, chance levels and a report."""
