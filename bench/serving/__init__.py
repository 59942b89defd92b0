"""What pruning saves a vLLM server under load, and where it does not."""
