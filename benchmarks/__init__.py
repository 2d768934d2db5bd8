"""The headline figures, measured side by side with their rivals: `make bench`."""
