"""One module for each heavy library. None imports Ray: engines report through callbacks."""
