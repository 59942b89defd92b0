"""The pocket model and its scenes."""
