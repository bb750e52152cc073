"""The shared world model: tokenizers, and one masked network over the slots of the token field."""
