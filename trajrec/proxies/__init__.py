"""The loopback proxy that records the model calls of a command in any language, or answers them."""
