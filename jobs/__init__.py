"""Ray entry points: they plan trials, hand them to Ray, and print. Each file is a command."""
