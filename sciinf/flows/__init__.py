"""Invertible transforms of R^D conditioned on features: what turns noise into a posterior."""
