"""Trajectories and transitions: types, rollouts, files, and the one door for demonstrations."""
