"""What lasts: where files lie, how they are written whole, and what the records hold."""
