"""What every command's run has: options, a record, and a plan."""
