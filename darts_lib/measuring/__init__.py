"""What is compared and how it is told: sizes, the original's steps, memory, tables."""
