"""The laboratory: pre-training of the shipped models, ablations, gradient agreement; only cli imports it."""
