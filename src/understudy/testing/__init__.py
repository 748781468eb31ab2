"""Helpers for the tests of projects that build on this library."""
