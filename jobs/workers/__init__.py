"""What runs inside tasks and actors."""
