"""Which model: where it lies, its commit, its files, access to it, and its chat template."""
