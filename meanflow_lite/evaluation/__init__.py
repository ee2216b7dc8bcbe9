"""Errors, distances and their intervals."""
