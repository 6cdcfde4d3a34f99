"""What answers on the port."""
