"""The starter catalogue's callable tools, one module a category."""
