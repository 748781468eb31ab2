"""Learned rewards: networks, what wraps them, environments that pay them, and how they are saved and loaded."""
