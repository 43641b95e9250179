"""Teacher maps on disk: codec (map and bytes), plan (their order), store (a folder of shards), importer."""
