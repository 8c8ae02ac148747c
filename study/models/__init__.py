"""Models: timm's networks as a study describes them, and where their weights come from."""
