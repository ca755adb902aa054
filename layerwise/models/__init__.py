"""Transformer recommenders: what an architecture looks like, how one is built, scored and trained."""
