"""From sources to what training draws: complete and verify, features, Algorithm 1, mixing modes, batches of halves.

Reading order: pairing (Algorithm 1), cluster, match, features, complete, verify, mixing, dataset. Nothing is imported
here.
"""
