"""What is learned: one paper, one file. Each file has `build(prior, observables)`, its estimator with defaults."""
