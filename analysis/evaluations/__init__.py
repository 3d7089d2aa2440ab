"""What is said about scores together; one evaluation a file."""
