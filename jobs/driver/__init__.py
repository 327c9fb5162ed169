"""What every command does around its pipeline."""
