"""Networks that know nothing of inference."""
