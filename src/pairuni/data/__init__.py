"""From sources to the batches of training: completion, features, Algorithm 1 and the mixing modes.

Reading order: pairing (Algorithm 1), cluster, match, features, complete, verify, mixing, dataset. Nothing is imported
here.
"""
