"""Ways to execute a model: one file a way."""
