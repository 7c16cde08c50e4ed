"""Batched integrators of differential equations in torch, and processes in time and on grids."""
