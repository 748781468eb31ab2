"""Generic parts: networks, logger, registry, environments, seeds, files. Nothing here knows what is being learnt."""
