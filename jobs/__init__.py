"""Ray entry points: they plan, hand work to Ray, and print. Each file without an underscore is a command."""
