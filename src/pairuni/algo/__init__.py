"""The paper's equations (section 3): tensors in, tensors out. No model, no I/O, no distributed call.

A -> advantages.py, w -> weights.py, L_clip and KL -> surrogate.py, J -> pair_grpo.py.
"""
