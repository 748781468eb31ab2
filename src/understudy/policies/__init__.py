"""Policies: small fixed ones, ready architectures, and how they are saved, found and loaded."""
