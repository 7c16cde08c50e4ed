"""Is this observation, this network, to be believed."""
