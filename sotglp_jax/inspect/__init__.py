"""What the prompts of a run learned."""
