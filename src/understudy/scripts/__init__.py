"""The command line: one file a verb, each a typed frozen dataclass with a ``run`` method."""
