"""One heavy library each. None imports Ray: what an engine must report goes through a callback."""
