"""Equations: pure functions of tensors, each with the number it bears in its paper.

Nothing here knows an environment, a learner, a logger or a hidden random generator.
"""
