"""What every layer shares: types, errors, row schemas, storage, paths and URIs, secrets."""
