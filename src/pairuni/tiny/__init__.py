"""Small models of each family with random weights, for tests and as the start of pre-training."""
