"""What every store must do, and what a backend adds to it."""
