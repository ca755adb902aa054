"""Measuring a recommender: ranking quality, latency, and the classic models it has to beat."""
