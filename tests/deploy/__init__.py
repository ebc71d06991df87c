"""deploy/: validators accept it, it says what the code says, and servers start with it."""
