"""Published image-restoration networks, re-implemented as plain modules to compile."""
