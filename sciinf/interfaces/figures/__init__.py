"""Figures of the report: each a function from plain data to a matplotlib Figure; pyplot is never touched."""
