"""What a training run minimises."""
