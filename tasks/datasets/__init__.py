"""Sources of images: one file a source; see `tasks.datasets.open_source`."""
