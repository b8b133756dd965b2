"""How much is read at once. Looked up where it is used, so that tests can read in small pieces."""

CHUNK_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 16 << 20
