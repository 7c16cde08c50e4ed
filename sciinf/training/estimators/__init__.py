"""Estimators, one paper per public file, each with `build(prior, observables)`, its estimator with defaults."""
