"""Interactions of users with items: one table type, its readers, splits and audit."""
