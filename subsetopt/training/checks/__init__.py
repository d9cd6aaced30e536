"""What is checked of a run before it starts and when it has ended."""
