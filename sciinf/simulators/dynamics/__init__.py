"""Integrators of differential equations, batched, in torch."""
