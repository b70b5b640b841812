"""Training: rollout.py samples and scores, step.py learns, loop.py repeats, checkpoint.py and resume.py remember."""
