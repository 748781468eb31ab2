"""Learners around Stable-Baselines3's: recipes that train an expert, as plain values."""
