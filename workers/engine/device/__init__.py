"""The encoder's device: vectors on their way from it to the host, and texts that its number format cannot hold."""
