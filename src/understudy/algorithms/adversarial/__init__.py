"""Adversarial imitation: a discriminator tells expert from learner, and the learner is paid for being taken for it."""
