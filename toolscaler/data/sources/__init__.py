"""One reader for each tool format."""
