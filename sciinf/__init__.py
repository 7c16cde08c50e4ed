"""sciinf: from a simulator and an observation to calibrated parameters."""
