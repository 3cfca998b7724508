"""Embed once, score many: zero-shot classification, retrieval, statistics, report."""
