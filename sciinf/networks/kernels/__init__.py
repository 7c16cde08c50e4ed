"""Loops in C, for what takes torch hundreds of calls: compiled once on a machine, beside torch's operations."""
