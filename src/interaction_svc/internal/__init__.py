"""What the service keeps for itself."""
