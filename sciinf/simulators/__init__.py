"""Simulators in: wrappers of users' programs, equations and state spaces with their filters, and symmetries of data."""
