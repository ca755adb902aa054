"""Smaller models: which layers to keep, building the compact model, healing it."""
