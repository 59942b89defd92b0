"""What this plugin uses of vLLM by name, read off both sources; nothing is imported or run."""
